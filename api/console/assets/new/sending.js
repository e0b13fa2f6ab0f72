// One upload of a file: its progress, and its repetition with the same key after a broken connection.

import { Problem, randomKey, upload } from "../client.js"

const PATH = "/api/v1/imports"
// the rate is averaged over the last seconds
const RATE_SECONDS = 5
const PAUSE_SECONDS_MAX = 30

const moving = new Set()

function ask(event) {
  event.preventDefault()
}

/** While bytes are moving the browser asks before it closes the page. */
function setMoving(sending, isMoving) {
  if (isMoving) moving.add(sending)
  else moving.delete(sending)
  if (moving.size) addEventListener("beforeunload", ask)
  else removeEventListener("beforeunload", ask)
}

export class Sending {
  sentBytes = 0
  totalBytes
  /** Bytes a second, null until it is known. */
  rate = null
  attempt = 1
  /** Why the last attempt failed and another one follows, or null. */
  problem = null
  /** Seconds until the next attempt. */
  pause = 0

  // one key creates one import, even if the file is sent several times
  #key = randomKey()
  #cancel = new AbortController()
  #points = []
  #wake = () => {}

  /**
   * @param {File} file
   * @param {Record<string, string>} parameters of the import
   * @param {() => void} onchange
   */
  constructor(file, parameters, onchange) {
    this.file = file
    this.parameters = parameters
    this.onchange = onchange
    this.totalBytes = file.size
    this.#cancel.signal.addEventListener("abort", () => this.#wake())
  }

  get secondsLeft() {
    return this.rate ? (this.totalBytes - this.sentBytes) / this.rate : null
  }

  get isSent() {
    return this.sentBytes >= this.totalBytes
  }

  cancel() {
    this.#cancel.abort()
  }

  /** Sends until there is a response. Returns the job; throws `Problem`, or AbortError after `cancel`. */
  async run() {
    setMoving(this, true)
    try {
      for (;;) {
        try {
          return await this.#send()
        } catch (problem) {
          if (!(problem instanceof Problem) || !isWorthRepeating(problem)) throw problem
          await this.#checkReadable()
          this.problem = problem
        }
        await this.#wait(this.problem.retryAfter ?? Math.min(2 ** this.attempt, PAUSE_SECONDS_MAX))
        this.attempt += 1
      }
    } finally {
      setMoving(this, false)
    }
  }

  #send() {
    this.#points = [[performance.now(), 0]]
    this.#progress(0)
    return upload(PATH, {
      // parameters before the file: it is read as it arrives
      body: form(this.parameters, this.file),
      headers: { "Idempotency-Key": this.#key },
      signal: this.#cancel.signal,
      onprogress: (sent, total) => {
        this.problem = null
        this.#progress(sent, total)
      },
    })
  }

  #progress(sent, total = this.totalBytes) {
    const now = performance.now()
    this.sentBytes = sent
    this.totalBytes = total
    this.#points.push([now, sent])
    while (this.#points.length > 2 && now - this.#points[0][0] > RATE_SECONDS * 1000) this.#points.shift()
    const [[then, before]] = this.#points
    this.rate = now > then && sent > before ? (1000 * (sent - before)) / (now - then) : null
    this.onchange()
  }

  /** A file that was changed or removed fails like a lost connection, and always will. */
  async #checkReadable() {
    try {
      await this.file.slice(0, 1).arrayBuffer()
    } catch {
      throw new Problem(-1, { title: "The file cannot be read", detail: "It was changed or removed meanwhile. Choose it again." })
    }
  }

  /** Ends the pause before the next attempt. */
  sendNow() {
    this.#wake()
  }

  async #wait(seconds) {
    const { signal } = this.#cancel
    let isOver = false
    for (this.pause = Math.ceil(seconds); this.pause > 0 && !isOver; this.pause -= 1) {
      this.onchange()
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, 1000)
        this.#wake = () => {
          isOver = true
          clearTimeout(timer)
          resolve()
        }
      })
      signal.throwIfAborted()
    }
    this.pause = 0
  }
}

function isWorthRepeating(problem) {
  return problem.isTemporary || problem.status === 408 || problem.type === "idempotency-in-progress"
}

function form(parameters, file) {
  const data = new FormData()
  for (const [name, value] of Object.entries(parameters)) data.append(name, value)
  data.append("file", file, file.name)
  return data
}
