// Why records are refused and why imports fail, and what to do about it: the tables of api/README.md.

import { number } from "./format.js"

/**
 * The codes of record errors.
 * @type {Record<string, {label: string, remedy: string}>}
 */
export const CAUSES = {
  malformed_row: { label: "Quotes are not closed", remedy: "Quote the whole cell, and double the quotes in it." },
  column_count_mismatch: {
    label: "More or fewer cells than the header",
    remedy: "Often an unquoted cell contains the delimiter: quote it.",
  },
  invalid_json: { label: "Not JSON", remedy: "Correct the brackets, quotes and commas of the record." },
  invalid_encoding: { label: "Not UTF-8", remedy: "Convert the file to UTF-8." },
  record_too_large: { label: "Record too large", remedy: "Shorten it, or raise RECORD_MAX_BYTES." },
  errors_not_stored: {
    label: "Its errors were not stored",
    remedy: "Correct the records whose errors are known, and import again.",
  },
  too_many_errors: { label: "More errors than are listed", remedy: "Correct the listed ones first." },
  missing_required: { label: "Value missing", remedy: "Add a value: absent, null and an empty cell are the same." },
  invalid_type: { label: "Wrong type", remedy: 'JSON true, not "true"; in CSV true or false.' },
  invalid_format: { label: "Wrong format", remedy: "Correct the value. Times need a zone: 2024-01-31T12:00:00Z." },
  invalid_enum: { label: "Not an allowed value", remedy: "Use one of the values that the message lists." },
  too_long: { label: "Too long", remedy: "Shorten the value." },
  too_short: { label: "Too short", remedy: "Lengthen the value; white space alone does not count." },
  too_many: { label: "Too many tags", remedy: "Keep at most 1,000." },
  too_many_words: { label: "Too many words", remedy: "Keep at most 500." },
  conflicting_fields: { label: "Fields that exclude each other", remedy: "Remove one of them; a draft has no published_at." },
  duplicate_in_file: {
    label: "Duplicate in the file",
    remedy: "Remove one of the two records; the message names the other line.",
  },
  already_exists: { label: "Already stored", remedy: "Import with mode skip or upsert, or remove the record." },
  key_conflict: { label: "The key belongs to another row", remedy: "Correct the id or the key." },
  not_found: { label: "No stored row to update", remedy: "Import with mode upsert." },
  foreign_key_not_found: {
    label: "Referenced record not stored",
    remedy: "Import it first, or with after; then retry this import.",
  },
  unknown_field: { label: "Unknown field", remedy: "Rename or remove it, or import with unknown_fields=ignore." },
  constraint_violation: { label: "Against a constraint of the table", remedy: "See the message." },
}

/** What to do about the problem of a failed import, by its type. */
export const FAILURES = {
  "error-budget-exceeded": "Correct the refused records and send them again, or import the file with a larger budget.",
  "stopped-on-error": "Correct the refused record, then retry: the records that are left are tried again.",
  "after-not-completed": "Get the import that this one waited for to complete, then retry this one.",
  "chunk-failed": "The log of the workers has the reason. Retry: the records that are left are tried again.",
}

/** The sentence below a table of an import's causes that does not list all of them; null if it does. */
export function listedCauses({ error_summary: listed, error_kinds: kinds }) {
  return kinds > listed.length ? `The ${number(listed.length)} most frequent of ${number(kinds)} causes.` : null
}
