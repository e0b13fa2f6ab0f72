// Reads the first 64 KiB of a file: compression, encoding, format, delimiter, the names of the columns, some values. This is for
// the eye and for the mapping of columns only: the service reads the file itself.

export const PREVIEW_BYTES = 64 * 1024
export const SAMPLES = 3
const ROWS = 20

export const DELIMITERS = [
  [",", "comma"],
  [";", "semicolon"],
  ["\t", "tab"],
  ["|", "bar"],
]

/** The usual encodings of files that are not Unicode; the user selects one by the names of the columns. */
export const ENCODINGS = [
  ["windows-1252", "Western European (Windows-1252)"],
  ["windows-1250", "Central European (Windows-1250)"],
  ["windows-1251", "Cyrillic (Windows-1251)"],
  ["gb18030", "Chinese (GB 18030)"],
  ["shift_jis", "Japanese (Shift JIS)"],
  ["euc-kr", "Korean (EUC-KR)"],
]

const EXTENSIONS = { csv: "csv", tsv: "csv", ndjson: "ndjson", jsonl: "ndjson", json: "json", xlsx: "xlsx", xlsm: "xlsx" }

const WORKBOOK = {
  heading: "This is not an .xlsx file that can be read",
  text: "Open it, and save it as .xlsx without a password, or the sheet as “CSV UTF-8”; or unpack the archive.",
}

/**
 * @typedef {object} Preview
 * @property {"csv" | "ndjson" | "json" | "xlsx"} format
 * @property {string} delimiter of a CSV file
 * @property {"gzip" | "zstd" | null} compression
 * @property {string} encoding "utf-8", "utf-16le", "utf-16be", or "" when it is none of them
 * @property {{name: string, samples: (string | null)[]}[] | null} columns null when they cannot be read here
 * @property {{heading: string, text: string} | null} fault why the service would refuse the file
 */

/**
 * The preview of a file. `chosen` is what the user has decided: `format`, `delimiter`, `encoding`.
 * @returns {Promise<Preview>}
 */
export async function read(file, chosen = {}) {
  const preview = { format: "csv", delimiter: ",", compression: null, encoding: "utf-8", columns: null, fault: null }
  let bytes
  try {
    bytes = new Uint8Array(await file.slice(0, PREVIEW_BYTES).arrayBuffer())
  } catch {
    return {
      ...preview,
      fault: { heading: "The file cannot be read", text: "It may be a folder, or it was moved or changed. Choose it again." },
    }
  }
  let isWhole = file.size <= PREVIEW_BYTES
  preview.compression = compressionOf(bytes)
  preview.format = chosen.format ?? formatByName(file.name) ?? "csv"
  if (preview.compression === "zstd") return preview
  if (preview.compression === "gzip") {
    const unpacked = await gunzip(bytes)
    isWhole &&= unpacked.isWhole
    bytes = unpacked.bytes
  }
  if (preview.format === "xlsx" && isZip(bytes)) return preview
  if (preview.format === "xlsx" || isZip(bytes) || isOle(bytes)) return { ...preview, fault: WORKBOOK }
  const { text, encoding } = decode(bytes, chosen.encoding)
  preview.encoding = encoding
  preview.fault = encodingFault(encoding)
  const lines = isWhole ? text : text.slice(0, text.lastIndexOf("\n") + 1) || text
  preview.format = chosen.format ?? formatByName(file.name) ?? formatByText(lines)
  if (preview.format === "csv") {
    preview.delimiter = chosen.delimiter ?? guessDelimiter(lines)
    preview.columns = csvColumns(lines, preview.delimiter)
    preview.fault ??= headerFault(preview.columns)
  } else {
    preview.columns = jsonColumns(preview.format === "json" ? arrayElements(text) : lines.split("\n"))
  }
  return preview
}

/** The file in UTF-8. */
export async function recode(file, encoding) {
  const text = file.stream().pipeThrough(new TextDecoderStream(encoding)).pipeThrough(new TextEncoderStream())
  return new File([await new Response(text).blob()], file.name)
}

function startsWith(bytes, ...magic) {
  return magic.every((byte, n) => bytes[n] === byte)
}

function compressionOf(bytes) {
  if (startsWith(bytes, 0x1f, 0x8b)) return "gzip"
  if (startsWith(bytes, 0x28, 0xb5, 0x2f, 0xfd)) return "zstd"
  return null
}

function isZip(bytes) {
  return startsWith(bytes, 0x50, 0x4b, 0x03, 0x04)
}

/** An .xls file, or an .xlsx file with a password. */
function isOle(bytes) {
  return startsWith(bytes, 0xd0, 0xcf, 0x11, 0xe0)
}

/** The decompressed beginning of a gzip file, at most PREVIEW_BYTES. A truncated stream is no error. */
async function gunzip(packed) {
  const reader = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip")).getReader()
  const blocks = []
  let length = 0
  let isWhole = false
  try {
    while (length < PREVIEW_BYTES && !isWhole) {
      const { value, done } = await reader.read()
      if (value) blocks.push(value)
      length += value?.length ?? 0
      isWhole = done
    }
  } catch {
    // the stream ends in the middle
  }
  reader.cancel().catch(() => {})
  return { bytes: new Uint8Array(await new Blob(blocks).arrayBuffer()).slice(0, PREVIEW_BYTES), isWhole }
}

/** The text, and the encoding it was found to have: "" when it is none of Unicode's. */
export function decode(bytes, chosen = null) {
  const utf16 = utf16Of(bytes)
  if (utf16) return { encoding: utf16, text: new TextDecoder(utf16).decode(bytes) }
  try {
    return { encoding: "utf-8", text: new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: true }) }
  } catch {
    return { encoding: "", text: new TextDecoder(chosen ?? ENCODINGS[0][0]).decode(bytes) }
  }
}

/** Whether it is UTF-16: by its byte order mark, or by zeros in every other byte, which text in UTF-8 does not have. */
function utf16Of(bytes) {
  if (startsWith(bytes, 0xff, 0xfe)) return "utf-16le"
  if (startsWith(bytes, 0xfe, 0xff)) return "utf-16be"
  const beginning = bytes.slice(0, 1000)
  const zeros = [0, 0]
  for (const [n, byte] of beginning.entries()) if (byte === 0) zeros[n % 2] += 1
  if (zeros[1] > beginning.length / 8 && zeros[1] > 4 * zeros[0]) return "utf-16le"
  if (zeros[0] > beginning.length / 8 && zeros[0] > 4 * zeros[1]) return "utf-16be"
  return null
}

function encodingFault(encoding) {
  if (encoding === "utf-8") return null
  if (encoding)
    return { heading: "The file is UTF-16", text: "The service reads UTF-8. Convert it here, or save it as “CSV UTF-8”." }
  return {
    heading: "The file is not UTF-8",
    text: "Choose the encoding in which the names below look right, and convert it; or save it as “CSV UTF-8”.",
  }
}

function formatByName(name) {
  const endings = name.toLowerCase().split(".").slice(1)
  return EXTENSIONS[endings.filter((ending) => !["gz", "zst"].includes(ending)).pop()] ?? null
}

function formatByText(text) {
  return { "{": "ndjson", "[": "json" }[text.trimStart()[0]] ?? "csv"
}

/** The delimiter with which most of the first rows have as many cells as the header, and that has the most of them. */
export function guessDelimiter(text) {
  const scores = DELIMITERS.map(([delimiter]) => {
    const rows = parseCsv(text, delimiter, ROWS)
    const width = rows[0]?.length ?? 0
    return width < 2 ? 0 : (1000 * rows.filter((row) => row.length === width).length) / rows.length + Math.min(width, 100)
  })
  const best = scores.indexOf(Math.max(...scores))
  return DELIMITERS[best][0]
}

/** At most `limit` rows of RFC 4180. Blank lines are left out; an unquoted empty cell is null. */
export function parseCsv(text, delimiter, limit) {
  const rows = []
  let row = []
  let cell = null
  let isQuoted = false
  const endRow = () => {
    if (row.length || cell !== null) rows.push([...row, cell])
    row = []
    cell = null
  }
  for (let n = 0; n < text.length && rows.length < limit; n += 1) {
    const character = text[n]
    if (isQuoted) {
      if (character !== '"') cell += character
      else if (text[n + 1] === '"') cell += text[(n += 1)]
      else isQuoted = false
    } else if (character === '"' && cell === null) {
      isQuoted = true
      cell = ""
    } else if (character === delimiter) {
      row.push(cell)
      cell = null
      // the last cell of a row counts even if it is empty
      if (text[n + 1] === "\n" || text[n + 1] === "\r" || n + 1 === text.length) {
        rows.push([...row, null])
        row = []
      }
    } else if (character === "\n" || character === "\r") {
      endRow()
    } else {
      cell = (cell ?? "") + character
    }
  }
  // a cell that is not closed is cut off
  if (rows.length < limit && !isQuoted) endRow()
  return rows
}

function csvColumns(text, delimiter) {
  const [header = [], ...rows] = parseCsv(text, delimiter, 1 + SAMPLES)
  return header.map((name, n) => ({ name: (name ?? "").trim(), samples: rows.map((row) => row[n] ?? null) }))
}

function headerFault(columns) {
  const names = columns.map(({ name }) => name)
  const nameless = names.indexOf("")
  if (nameless >= 0)
    return { heading: `Column ${nameless + 1} has no name`, text: "The first line must have a name for each column." }
  const twice = names.find((name, n) => names.indexOf(name) !== n)
  if (twice !== undefined)
    return { heading: `Two columns have the name ${twice}`, text: "Give one of them another name in the first line." }
  return null
}

/** The elements of an array whose text may be cut off. */
function* arrayElements(text) {
  let depth = 0
  let start = -1
  let isText = false
  for (let n = 0; n < text.length; n += 1) {
    const character = text[n]
    if (isText) {
      if (character === "\\") n += 1
      else if (character === '"') isText = false
    } else if (character === '"') {
      isText = true
    } else if (character === "{" || character === "[") {
      if (character === "{" && depth === 1) start = n
      depth += 1
    } else if (character === "}" || character === "]") {
      depth -= 1
      if (depth === 1 && start >= 0) yield text.slice(start, n + 1)
      if (depth === 1) start = -1
    }
  }
}

/** The keys of the first objects, in the order in which they appear. */
function jsonColumns(texts) {
  const records = []
  for (const text of texts) {
    if (records.length === ROWS) break
    try {
      const record = JSON.parse(text)
      if (record && typeof record === "object" && !Array.isArray(record)) records.push(record)
    } catch {
      // a blank or malformed line: the check reports it
    }
  }
  const names = new Set(records.flatMap((record) => Object.keys(record)))
  return [...names].map((name) => ({ name, samples: records.slice(0, SAMPLES).map((record) => sample(record[name])) }))
}

function sample(value) {
  if (value === undefined || value === null) return null
  return typeof value === "string" ? value : JSON.stringify(value)
}
