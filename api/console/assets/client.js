// Access to the API: requests with the key, problems as errors, events, uploads with progress, downloads.

const KEY = "bulk.key"

/** The API key: in memory, and in sessionStorage when the user wants to keep it for the tab. Never anywhere else. */
export const credentials = {
  key: sessionStorage.getItem(KEY) ?? "",

  set(key, { keep }) {
    this.key = key
    if (keep) sessionStorage.setItem(KEY, key)
    else sessionStorage.removeItem(KEY)
  },

  forget() {
    this.key = ""
    sessionStorage.removeItem(KEY)
  },
}

/** A problem document (RFC 9457), or a failure without a response (`status` 0). */
export class Problem extends Error {
  constructor(status, body, retryAfter = null) {
    super(body.detail || body.title || `The service answered ${status}.`)
    this.status = status
    this.type = (body.type ?? "").replace("/problems/", "")
    this.title = body.title ?? ""
    this.errors = body.errors ?? []
    /** The lines of the file that the problem is about. */
    this.lines = body.lines ?? []
    this.requestId = body.request_id ?? null
    /** Seconds to wait before the request is repeated, or null. */
    this.retryAfter = retryAfter
  }

  /** The service cannot be reached or is not ready: the request may succeed later. */
  get isTemporary() {
    return this.status === 0 || this.status === 503 || this.status === 429
  }
}

const listeners = new Set()

/** Calls `listener` whenever a request was refused because the key is missing or invalid. */
export function onUnauthorized(listener) {
  listeners.add(listener)
}

function authorization() {
  return credentials.key ? { Authorization: `Bearer ${credentials.key}` } : {}
}

/** Headers take Latin-1 only: a name with other characters is sent in the query instead. */
export function address(path, query = {}) {
  const entries = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "")
  const text = new URLSearchParams(entries.map(([name, value]) => [name, String(value)])).toString()
  return text ? `${path}${path.includes("?") ? "&" : "?"}${text}` : path
}

/** Sends a request. Returns the Response; throws `Problem`, or AbortError when `signal` is aborted. */
export async function send(method, path, { query, json, body, headers, signal } = {}) {
  let response
  try {
    response = await fetch(address(path, query), {
      method,
      signal,
      headers: { ...authorization(), ...(json === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      body: json === undefined ? body : JSON.stringify(json),
      credentials: "omit",
      cache: "no-store",
    })
  } catch (error) {
    if (error.name === "AbortError") throw error
    throw new Problem(0, { title: "No answer", detail: "The service cannot be reached." }, 2)
  }
  if (response.ok || response.status === 304) return response
  throw await problemOf(response)
}

async function problemOf(response) {
  const problem = new Problem(response.status, await response.json().catch(() => ({})), retryAfter(response.headers))
  if (problem.status === 401) for (const listener of listeners) listener(problem)
  return problem
}

function retryAfter(headers) {
  const seconds = Number.parseFloat(headers.get("Retry-After") ?? "")
  return Number.isFinite(seconds) ? seconds : null
}

/** The JSON of a GET. */
export async function get(path, query, { signal } = {}) {
  return (await send("GET", path, { query, signal })).json()
}

/** The JSON of a POST; `json` is its body, if any. */
export async function post(path, json, { signal, query, headers } = {}) {
  return (await send("POST", path, { json, signal, query, headers })).json()
}

export async function remove(path, { signal } = {}) {
  await send("DELETE", path, { signal })
}

/**
 * Uploads a file as the body of a request. fetch has no upload progress, so this uses XMLHttpRequest.
 * `onprogress(sentBytes, totalBytes)`. Resolves with the JSON of the response; rejects with `Problem` or AbortError.
 */
export function upload(path, { query, body, headers, onprogress, signal } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest()
    request.open("POST", address(path, query))
    for (const [name, value] of Object.entries({ ...authorization(), ...headers })) request.setRequestHeader(name, value)
    request.upload.onprogress = (event) => onprogress?.(event.loaded, event.lengthComputable ? event.total : body.size)
    request.onerror = () => reject(new Problem(0, { title: "No answer", detail: "The connection was lost." }, 2))
    request.onabort = () => reject(new DOMException("The upload was cancelled.", "AbortError"))
    request.onload = () => {
      let answer = {}
      try {
        answer = JSON.parse(request.responseText)
      } catch {
        // not JSON: the response of a proxy
      }
      if (request.status >= 200 && request.status < 300) return resolve(answer)
      const seconds = Number.parseFloat(request.getResponseHeader("Retry-After") ?? "")
      const problem = new Problem(request.status, answer, Number.isFinite(seconds) ? seconds : null)
      if (problem.status === 401) for (const listener of listeners) listener(problem)
      return reject(problem)
    }
    signal?.addEventListener("abort", () => request.abort(), { once: true })
    request.send(body)
  })
}

/**
 * Follows server-sent events until `done`. EventSource cannot send a key, so this reads them with fetch.
 * Yields `{event, data}` with `data` parsed. Ends when the stream ends; throws `Problem` when it cannot be opened.
 */
export async function* events(path, { signal } = {}) {
  const response = await send("GET", path, { signal, headers: { Accept: "text/event-stream" } })
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let buffer = ""
  try {
    for (;;) {
      const { value, done } = await reader.read()
      if (done) return
      buffer += value
      let end
      while ((end = buffer.indexOf("\n\n")) >= 0) {
        const fields = {}
        for (const line of buffer.slice(0, end).split("\n")) {
          const colon = line.indexOf(":")
          if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart()
        }
        buffer = buffer.slice(end + 2)
        if (fields.data) yield { event: fields.event ?? "message", data: JSON.parse(fields.data) }
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error
    throw new Problem(0, { title: "The connection was lost", detail: "The stream of events broke off." }, 2)
  } finally {
    reader.cancel().catch(() => {})
  }
}

/** Starts a browser download of a path of the API. A ticket replaces the key, which a link cannot send. */
export async function download(path) {
  const { url } = await post("/api/v1/tickets", { path })
  const link = document.createElement("a")
  link.href = url
  link.download = ""
  document.body.append(link)
  link.click()
  link.remove()
}

/** The request as a curl command, with the key as a variable. With `form` the file is a part of a form, else the body. */
export function asCurl(method, path, { json, form, file, type } = {}) {
  const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`
  return [
    "curl",
    method === "GET" ? "" : method === "POST" && (json !== undefined || file) ? "" : `-X ${method}`,
    credentials.key ? '-H "Authorization: Bearer $API_KEY"' : "",
    type ? `-H ${quote(`Content-Type: ${type}`)}` : "",
    json === undefined ? "" : `--json ${quote(JSON.stringify(json))}`,
    ...Object.entries(form ?? {}).map(([name, value]) => `--form-string ${quote(`${name}=${value}`)}`),
    file ? (form ? `-F ${quote(`file=@"${file.replace(/["\\]/g, "\\$&")}"`)}` : `--data-binary ${quote(`@${file}`)}`) : "",
    quote(location.origin + path),
  ]
    .filter(Boolean)
    .join(" ")
}

/** A random key for Idempotency-Key. crypto.randomUUID is missing on plain HTTP. */
export function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("")
}
