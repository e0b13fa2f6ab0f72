// Rules that mend a whole column. A rule is data: it is kept, listed, undone and applied to records as they are fetched.

/**
 * A value of a cell. CSV: a text, or null for an empty cell. NDJSON and JSON: any JSON value, null when the member is absent.
 * @typedef {string | number | boolean | null | object} Value
 */

/**
 * A refused record. `columns` are the names in the file. `cells` is null for a record that cannot be split, and then `raw` is
 * its text. `column` of an error is a name in the file, or null when the error is about the whole record.
 * @typedef {{column: string | null, code: string}} Fault
 * @typedef {{columns: string[], cells: Value[] | null, raw: string | null, errors: Fault[]}} Refused
 */

/**
 * `column`: the name in the file. `code`: only cells with this error; "" for any error, null for all cells of the column.
 * `from`, `to`, `part`, `allowed` and `asText` are for single kinds.
 * @typedef {{id: number, kind: string, column: string | null, code: string | null, from?: string, to?: Value, part?: boolean,
 *   allowed?: string[], asText?: boolean}} Rule
 */

const BOOLEANS = { true: true, yes: true, y: true, on: true, 1: true, false: false, no: false, n: false, off: false, 0: false }

/** The kinds in the order of the menu: `mend(value, rule)` returns the value that takes the place of `value`. */
export const KINDS = {
  replace: {
    label: "Replace a value",
    mend: (value, { from, to, part }) => {
      if (!part) return textOf(value) === from ? to : value
      return typeof value === "string" && from ? value.replaceAll(from, textOf(to)) : value
    },
  },
  fill: { label: "Fill empty cells", mend: (value, { to }) => (isEmpty(value) ? to : value) },
  trim: {
    label: "Remove white space around the text",
    mend: (value) => (typeof value === "string" ? value.trim() || null : value),
  },
  lower: { label: "Make lower case", mend: (value) => (typeof value === "string" ? value.toLowerCase() : value) },
  boolean: {
    label: "Make true or false from yes, no, 1, 0",
    mend: (value, { asText }) => {
      const word = textOf(value).trim().toLowerCase()
      if (!Object.hasOwn(BOOLEANS, word)) return value
      return asText ? String(BOOLEANS[word]) : BOOLEANS[word]
    },
  },
  nearest: { label: "Use the nearest allowed value", mend: (value, { allowed }) => nearest(textOf(value), allowed) ?? value },
  text: {
    label: "Make text of numbers",
    mend: (value) => (["number", "boolean"].includes(typeof value) || isRawNumber(value) ? textOf(value) : value),
  },
  clear: { label: "Empty the cells", mend: () => null },
  drop: { label: "Leave these records out", mend: null },
}

/** The kinds that make sense for a field (its definition, or null for an unknown one) of an import in this format. */
export function kindsFor(field, format) {
  const isText = !field || field.type !== "boolean"
  return Object.keys(KINDS).filter((kind) => {
    if (kind === "boolean") return field?.type === "boolean"
    if (kind === "nearest") return Boolean(field?.enum)
    if (kind === "lower") return isText
    if (kind === "text") return isText && format !== "csv"
    return true
  })
}

/** The rule as a sentence. */
export function describe(rule) {
  const quoted = (value) => `“${textOf(value)}”`
  const target = isEmpty(rule.to) ? "empty" : quoted(rule.to)
  const what = {
    replace: () => `${quoted(rule.from)} → ${target}${rule.part ? " within the text" : ""}`,
    fill: () => `empty → ${target}`,
    trim: () => "white space around it removed",
    lower: () => "lower case",
    boolean: () => "yes, no, 1, 0 → true, false",
    nearest: () => `nearest of ${rule.allowed.join(", ")}`,
    text: () => "numbers → text",
    clear: () => "emptied",
    drop: () => "left out",
  }
  return what[rule.kind]()
}

/**
 * The record with the rule applied; the same object when the rule changes nothing. A record that is left out gets `isOut`.
 * @param {Rule} rule
 * @param {Refused} record
 */
export function apply(rule, record) {
  if (rule.kind === "drop") return matches(rule, record) ? { ...record, isOut: true } : record
  const place = record.cells ? record.columns.indexOf(rule.column) : -1
  if (place < 0 || !matches(rule, record)) return record
  const value = record.cells[place] ?? null
  const mended = KINDS[rule.kind].mend(value, rule)
  if (isSame(mended, value)) return record
  return { ...record, cells: record.columns.map((_, n) => (n === place ? mended : (record.cells[n] ?? null))) }
}

/** The record with all of these rules applied in their order. */
export const applyAll = (rules, record) => rules.reduce((mended, rule) => apply(rule, mended), record)

function matches(rule, record) {
  if (rule.code === null) return true
  return record.errors.some(({ column, code }) => column === rule.column && (!rule.code || code === rule.code))
}

/** The allowed value that differs least from the text, or null when none is near or two are equally near. */
export function nearest(text, allowed) {
  const word = text.trim().toLowerCase()
  if (!word) return null
  const ranked = allowed
    .map((value) => {
      const option = value.toLowerCase()
      const isStart = option.startsWith(word) || word.startsWith(option)
      return {
        value,
        far: option === word ? 0 : isStart ? 0.5 : distance(word, option),
        most: Math.max(1, Math.floor(option.length / 2)),
      }
    })
    .sort((one, other) => one.far - other.far)
  const [best, second] = ranked
  if (!best || best.far > best.most || second?.far === best.far) return null
  return best.value
}

/** How many letters must be inserted, removed, replaced or swapped with their neighbour to make `to` of `from`. */
function distance(from, to) {
  if (Math.abs(from.length - to.length) > 8) return Infinity
  let before = []
  let row = Array.from({ length: to.length + 1 }, (_, n) => n)
  for (let i = 1; i <= from.length; i += 1) {
    const next = [i]
    for (let j = 1; j <= to.length; j += 1) {
      next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (from[i - 1] === to[j - 1] ? 0 : 1))
      if (i > 1 && j > 1 && from[i - 1] === to[j - 2] && from[i - 2] === to[j - 1]) next[j] = Math.min(next[j], before[j - 2] + 1)
    }
    ;[before, row] = [row, next]
  }
  return row[to.length]
}

/** A value as text in a cell: text as it is, nothing for null, anything else as JSON. */
export function textOf(value) {
  if (value === null || value === undefined) return ""
  return typeof value === "string" ? value : JSON.stringify(value)
}

/** The value of what was typed into a cell of this field: in CSV the text, in JSON a value of the field's type if it is one. */
export function valueOf(text, field, format) {
  if (text === "") return null
  if (format === "csv" || !["boolean", "list of text"].includes(field?.type)) return text
  try {
    return JSON.parse(text)
  } catch {
    return text
  }
}

export const isEmpty = (value) => value === null || value === undefined || value === ""

export const isSame = (one, other) =>
  one === other || (typeof one === typeof other && JSON.stringify(one) === JSON.stringify(other))

const isRawNumber = (value) => Boolean(JSON.isRawJSON?.(value))
