// Refused records from the API, and mended ones back to it: pages of cells, files in the import's own format, sending, waiting.

import { get, post, Problem, send, upload } from "../client.js"
import { isFinal } from "../parts.js"
import { textOf } from "./rules.js"

export const PATH = "/api/v1/imports"

/** What may be edited by hand before it is sent, and the largest file that rules make. */
export const LIMITS = { records: 2000, bytes: 4 * 1024 * 1024, fileBytes: 256 * 1024 * 1024 }

/** JSON as JavaScript values. A number that would change, like 1.0 or one of twenty digits, keeps its text if possible. */
export function parse(text) {
  if (!JSON.rawJSON) return JSON.parse(text)
  return JSON.parse(text, (_, value, context) =>
    typeof value === "number" && String(value) !== context?.source ? JSON.rawJSON(context.source) : value,
  )
}

/** The field of a column of the file; null when the import leaves the column out. */
export function fieldOf(job, column) {
  return job.columns && Object.hasOwn(job.columns, column) ? job.columns[column] : column
}

/** The column of the file that holds the field, which is the field's own name unless the import's `columns` have another. */
export function columnOf(job, field) {
  return Object.keys(job.columns ?? {}).find((column) => job.columns[column] === field) ?? field
}

/**
 * A page of the refused records of `job` that no repair has taken: `{records, cursor, total}`. Each record has the columns of its
 * file, a key, and the column of each error.
 */
export async function refusedPage(job, fields, { code, field, cursor, limit = 100, signal } = {}) {
  const query = { as: "cells", unrepaired: true, limit, cursor, code, field }
  const response = await send("GET", `${PATH}/${job.id}/failed-records`, { query, signal })
  const page = parse(await response.text())
  const names = new Set(page.columns)
  if (job.format !== "csv") {
    // a member that no object has is not in the page, but may be required
    for (const { name, required } of fields) if (required) names.add(columnOf(job, name))
    for (const record of page.records)
      for (const error of record.errors) if (error.field !== null) names.add(columnOf(job, error.field))
  }
  const columns = [...names]
  const records = page.records.map((record) => ({
    ...record,
    key: `${job.id}/${record.record}`,
    job: job.id,
    columns,
    errors: record.errors.map((error) => ({ ...error, column: placeOf(job, columns, error.field) })),
  }))
  return { records, cursor: page.next_cursor, total: page.total }
}

function placeOf(job, columns, field) {
  if (field === null) return null
  const column = columnOf(job, field)
  return columns.includes(column) ? column : columns.includes(field) ? field : null
}

/** All refused records of these imports, page by page. */
export async function* allRefused(jobs, fields, { signal } = {}) {
  for (const job of jobs) {
    let cursor = null
    do {
      const position = cursor
      const page = await patiently(() => refusedPage(job, fields, { cursor: position, limit: 1000, signal }), { signal })
      yield page.records
      cursor = page.cursor
    } while (cursor)
  }
}

const TYPES = { csv: "text/csv", ndjson: "application/x-ndjson", json: "application/json" }

/** Makes a file of mended records in the import's format, each with the line of the first file as `_line`. */
export class RepairFile {
  #job
  #parts = []
  #columns = null
  size = 0
  records = 0

  constructor(job) {
    this.#job = job
  }

  add(records) {
    if (!records.length) return
    const { format } = this.#job
    if (format === "csv") this.#columns ??= records[0].columns
    const lines = records.map((record) => (format === "csv" ? csvRow(record, this.#job.csv_delimiter) : jsonObject(record)))
    const separator = format === "json" ? ",\n" : "\n"
    const part = new Blob([
      this.records && format === "json" ? separator : "",
      lines.join(separator),
      format === "json" ? "" : "\n",
    ])
    this.#parts.push(part)
    this.size += part.size
    this.records += records.length
  }

  get blob() {
    const { format, csv_delimiter: delimiter } = this.#job
    const frame = {
      csv: () => [`${["_line", ...this.#columns].map((name) => csvCell(name, delimiter)).join(delimiter)}\n`, ...this.#parts],
      ndjson: () => this.#parts,
      json: () => ["[\n", ...this.#parts, "\n]\n"],
    }
    return new Blob(frame[format](), { type: TYPES[format] })
  }

  get name() {
    const stem = (this.#job.file.name ?? this.#job.resource).replace(/(\.(csv|ndjson|jsonl|json))?(\.(gz|zst))?$/i, "")
    return `${stem}.${this.#job.format}`
  }
}

function csvRow(record, delimiter) {
  if (record.cells === null) return `${record.line}${delimiter}${record.raw}`
  return [String(record.line), ...record.columns.map((_, n) => csvCell(record.cells[n] ?? null, delimiter))].join(delimiter)
}

/** An empty cell is null, `""` the empty text. */
export function csvCell(value, delimiter) {
  if (value === null) return ""
  const text = textOf(value)
  return text === "" || text.includes(delimiter) || /["\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}

function jsonObject(record) {
  if (record.cells === null) {
    const { _line, _errors, ...members } = parse(record.raw)
    return JSON.stringify({ _line: record.line, ...members })
  }
  // built as text, since objects treat names like __proto__ or numbers differently
  const members = record.columns.map((name, n) => [name, record.cells[n] ?? null]).filter(([, value]) => value !== null)
  const texts = [["_line", record.line], ...members].map((member) => member.map((part) => JSON.stringify(part)).join(":"))
  return `{${texts.join(",")}}`
}

/**
 * Why the text of a record that could not be split must not be sent as it is, or null. A CSV row with an open quote would take
 * in the rows behind it.
 */
export function fault(text, job, columns) {
  if (job.format !== "csv") {
    try {
      const value = parse(text)
      return value && typeof value === "object" && !Array.isArray(value) ? null : "This is not a JSON object."
    } catch {
      return "This is not valid JSON."
    }
  }
  const end = job.csv_delimiter === "|" ? "\\|" : job.csv_delimiter
  const cell = new RegExp(`(?:"[^"]*(?:""[^"]*)*"|[^"\\r\\n${end}]*)${end}`, "y")
  const line = `${text}${job.csv_delimiter}`
  let cells = 0
  while (cell.lastIndex < line.length) {
    if (!cell.test(line)) return "A quote is not closed, or stands in the middle of a cell."
    cells += 1
  }
  return cells === columns.length ? null : `This has ${cells} cells, but the header has ${columns.length}: ${columns.join(", ")}.`
}

/** Posts the file as a repair of the import. Returns the new import. */
export function sendRepair(job, file, { key, onprogress, signal }) {
  const form = new FormData()
  form.append("repairs", job.id)
  form.append("file", file.blob, file.name)
  return upload(PATH, { body: form, headers: { "Idempotency-Key": key }, onprogress, signal })
}

/** Calls `action()` until it has no temporary problem; `onpause(problem, seconds)` is called before each pause. */
export async function patiently(action, { signal, onpause }) {
  for (;;) {
    try {
      return await action()
    } catch (problem) {
      if (!(problem instanceof Problem) || !problem.isTemporary) throw problem
      const seconds = Math.max(1, Math.ceil(problem.retryAfter ?? 2))
      onpause?.(problem, seconds)
      await pause(seconds, signal)
    }
  }
}

/** The import once it is final; `onprogress(job)` is called with each state before. */
export async function settled(id, { signal, onprogress }) {
  for (;;) {
    const job = await patiently(() => get(`${PATH}/${id}`, {}, { signal }), { signal })
    if (isFinal(job)) return job
    onprogress?.(job)
    await pause(0.5, signal)
  }
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000)
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true })
  })
}

/** Commits a dry run and waits for the import that stores it. */
export async function commit(job, { signal, onprogress }) {
  const child = await patiently(() => post(`${PATH}/${job.id}/commit`, undefined, { signal }), { signal })
  return settled(child.id, { signal, onprogress })
}

/**
 * The import and all repairs and retries that follow from it, oldest first: `{job, commit, isContinued}`. `commit` is the import
 * that stores a dry run. `isContinued`: what it refused and no repair has is in its retry or commit.
 */
export async function familyOf(job, { signal } = {}) {
  const family = [{ job, commit: null, isContinued: false }]
  for (const member of family) {
    let cursor = null
    do {
      const page = await get(PATH, { parent: member.job.id, limit: 100, cursor }, { signal })
      for (const child of page.imports) {
        if (child.relation !== "repair") member.isContinued = true
        if (child.relation === "commit") member.commit = child
        else family.push({ job: child, commit: null, isContinued: false })
      }
      cursor = page.next_cursor
    } while (cursor)
  }
  return family.sort((one, other) => one.job.created_at.localeCompare(other.job.created_at))
}
