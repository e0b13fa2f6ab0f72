// Unsent work on an import: edits by hand, rules, what can be undone. Kept in sessionStorage, so that it survives a reload.

import { randomKey } from "../client.js"
import { LIMITS, parse } from "./repair.js"
import { applyAll, isSame } from "./rules.js"

const STORED_MAX = 2_000_000

export class Edits {
  /** By key of a record: `{record, cells: Map(column → value), raw, isOut}`; `raw` and `isOut` are undefined when untouched. */
  hand = new Map()
  /** @type {import("./rules.js").Rule[]} */
  rules = []
  /** False if the work exceeds the size of sessionStorage: then a reload loses it. */
  isStored = true
  #name
  #undo = []
  #nextRule = 1
  #key = null
  #bytes = 0
  #timer = null
  #typing = null
  // by key: the record with rules and edits applied
  #results = new Map()

  constructor(importId) {
    this.#name = `bulk.mend.${importId}`
    this.#load()
  }

  get canUndo() {
    return this.#undo.length > 0
  }

  /** Identifies the file that is made of the present edits: the same one for each attempt to send it. */
  get idempotencyKey() {
    this.#key ??= randomKey()
    this.save()
    return this.#key
  }

  /** The record with the rules and, above them, the edits by hand. The same object until something of it changes. */
  mended(record) {
    return this.#result(record).mended
  }

  /** "out" when the record is left out, "edited" when it differs from what was sent, else null. */
  stateOf(record) {
    return this.#result(record).state
  }

  #result(record) {
    const known = this.#results.get(record.key)
    if (known?.record === record) return known
    const result = { record, ...this.judge(record) }
    this.#results.set(record.key, result)
    return result
  }

  /** `mended` and `stateOf` of a record, without caching. */
  judge(record) {
    const mended = this.#apply(record)
    const isEdited = mended !== record && !(mended.raw === record.raw && isSame(mended.cells, record.cells))
    return { mended, state: mended.isOut ? "out" : isEdited ? "edited" : null }
  }

  #apply(record) {
    const ruled = applyAll(this.rules, record)
    const edit = this.hand.get(record.key)
    if (!edit) return ruled
    const isOut = edit.isOut ?? ruled.isOut ?? false
    if (record.cells === null) return { ...ruled, raw: edit.raw ?? record.raw, isOut }
    const cells = record.columns.map((name, n) => (edit.cells.has(name) ? edit.cells.get(name) : (ruled.cells[n] ?? null)))
    return { ...ruled, cells, isOut }
  }

  /** Whether one more record can be edited by hand. */
  canEdit(record) {
    return this.hand.has(record.key) || (this.hand.size < LIMITS.records && this.#bytes < LIMITS.bytes)
  }

  /** All typing into one cell is one step of undo. */
  endTyping() {
    this.#typing = null
  }

  setCell(record, column, value) {
    const edit = this.#edit(record)
    const typing = `${record.key}/${column}`
    if (this.#typing !== typing)
      this.#remember({ key: record.key, column, before: edit.cells.get(column), had: edit.cells.has(column) })
    this.#typing = typing
    edit.cells.set(column, value)
    this.#tidy(record, edit, column)
  }

  setRaw(record, raw) {
    const edit = this.#edit(record)
    if (this.#typing !== record.key) this.#remember({ key: record.key, raw: edit.raw, isRaw: true })
    this.#typing = record.key
    edit.raw = raw === record.raw ? undefined : raw
    this.#tidy(record, edit)
  }

  /** Takes back what was typed into the cell, or into the text of a record that cannot be split (`column` null). */
  reset(record, column) {
    const edit = this.hand.get(record.key)
    if (!edit) return
    this.#typing = null
    if (column === null) this.setRaw(record, record.raw)
    else if (edit.cells.has(column)) {
      this.#remember({ key: record.key, column, before: edit.cells.get(column), had: true })
      edit.cells.delete(column)
      this.#tidy(record, edit)
    }
    this.#typing = null
  }

  setOut(record, isOut) {
    const edit = this.#edit(record)
    this.#remember({ key: record.key, isOut: edit.isOut, wasOut: true })
    edit.isOut = isOut === Boolean(applyAll(this.rules, record).isOut) ? undefined : isOut
    this.#tidy(record, edit)
  }

  addRule(rule) {
    const added = { ...rule, id: this.#nextRule }
    this.#nextRule += 1
    this.#setRules([...this.rules, added])
    this.#remember({ added })
    this.#changed()
  }

  removeRule(rule) {
    this.#remember({ rules: this.rules })
    this.#setRules(this.rules.filter(({ id }) => id !== rule.id))
    this.#changed()
  }

  /** Undoes the last change. Returns its position, `{key, column}`, or null. */
  undo() {
    const last = this.#undo.pop()
    this.#typing = null
    if (!last) return null
    if (last.added) this.#setRules(this.rules.filter(({ id }) => id !== last.added.id))
    else if (last.rules) this.#setRules(last.rules)
    else {
      const edit = this.hand.get(last.key) ?? this.#edit(last.record)
      if (last.isRaw) edit.raw = last.raw
      else if (last.wasOut) edit.isOut = last.isOut
      else if (last.had) edit.cells.set(last.column, last.before)
      else edit.cells.delete(last.column)
      this.#tidy(last.record, edit)
    }
    this.#changed()
    return { key: last.key ?? null, column: last.column ?? null }
  }

  /** Removes the edits of the sent records, and all rules except those that leave records out. */
  sent(keys) {
    for (const key of keys) this.#forget(key)
    this.#setRules(this.rules.filter(({ kind }) => kind === "drop"))
    this.#undo = []
    this.#key = null
    this.save()
  }

  /** Removes the edits of records that are not refused any more, since another tab has sent them: not `isKept(key, record)`. */
  keep(isKept) {
    const keys = [...this.hand].filter(([key, { record }]) => !isKept(key, record)).map(([key]) => key)
    if (!keys.length) return
    for (const key of keys) this.#forget(key)
    this.#undo = this.#undo.filter(({ key }) => !keys.includes(key))
    this.#changed()
  }

  #setRules(rules) {
    this.rules = rules
    this.#results.clear()
  }

  #edit(record) {
    const known = this.hand.get(record.key)
    if (known) return known
    const edit = { record, cells: new Map(), raw: undefined, isOut: undefined, size: JSON.stringify(record).length }
    this.#bytes += edit.size
    this.hand.set(record.key, edit)
    return edit
  }

  #forget(key) {
    this.#results.delete(key)
    this.#bytes -= this.hand.get(key)?.size ?? 0
    this.hand.delete(key)
  }

  /** Removes an edit that changes nothing. */
  #tidy(record, edit, column) {
    if (column !== undefined) {
      const ruled = applyAll(this.rules, record)
      if (isSame(edit.cells.get(column) ?? null, ruled.cells[record.columns.indexOf(column)] ?? null)) edit.cells.delete(column)
    }
    this.#results.delete(record.key)
    if (!edit.cells.size && edit.raw === undefined && edit.isOut === undefined) this.#forget(record.key)
    this.#changed()
  }

  #remember(change) {
    this.#undo.push({ ...change, record: change.key && this.hand.get(change.key).record })
    if (this.#undo.length > 1000) this.#undo.shift()
  }

  #changed() {
    this.#key = null
    this.#timer ??= setTimeout(() => this.save(), 300)
  }

  /** Writes to sessionStorage now. */
  save() {
    clearTimeout(this.#timer)
    this.#timer = null
    const text = JSON.stringify({
      rules: this.rules,
      nextRule: this.#nextRule,
      key: this.#key,
      hand: [...this.hand.values()].map(({ record, cells, raw, isOut }) => ({ record, cells: [...cells], raw, isOut })),
    })
    this.isStored = text.length <= STORED_MAX
    try {
      if (this.isStored && (this.hand.size || this.rules.length)) sessionStorage.setItem(this.#name, text)
      else sessionStorage.removeItem(this.#name)
    } catch {
      // the browser's own limit
      this.isStored = false
    }
  }

  #load() {
    const text = sessionStorage.getItem(this.#name)
    if (!text) return
    const stored = parse(text)
    this.rules = stored.rules
    this.#nextRule = stored.nextRule
    this.#key = stored.key
    for (const { record, cells, raw, isOut } of stored.hand)
      Object.assign(this.#edit(record), { cells: new Map(cells), raw, isOut })
  }
}
