// The rules of the mending page: a list of those in force, and a form for another one, with its effect before it is added.

import { html, nothing } from "../vendor/lit-html/lit-html.js"
import * as format from "../format.js"
import { icon } from "../parts.js"
import { counted, labelOf } from "./causes.js"
import { columnOf, fieldOf } from "./repair.js"
import { apply, describe, isEmpty, KINDS, kindsFor, textOf, valueOf } from "./rules.js"

const SUGGESTED = {
  invalid_enum: "nearest",
  invalid_type: "boolean",
  missing_required: "fill",
  unknown_field: "clear",
  duplicate_in_file: "drop",
  already_exists: "drop",
  conflicting_fields: "clear",
}
const ALL = "all"
const VALUES_MAX = 50

export class RuleList {
  /** What the form holds; null while it is closed. `scope` is an error's code, "" for any error, or "all". */
  form = null

  /** @param page as for the grid, with `known`, all records that are loaded, and `isWhole`, whether these are all */
  constructor(page) {
    this.page = page
  }

  /** Opens the form for the cause of refusal that the grid shows, else for the most frequent one. */
  open() {
    const { page } = this
    const { code, field } = page.code ? page : (counted(page).find((cause) => cause.field !== null) ?? { code: "", field: null })
    const column = field ? columnOf(page.job, field) : code ? "" : (page.grid.columns[0] ?? "")
    this.form = { column, kind: null, scope: code, from: null, to: "", part: false }
    this.page.update()
    document.querySelector("#rule-column")?.focus()
  }

  close() {
    this.form = null
    this.page.update()
  }

  render() {
    const { rules } = this.page.edits
    return html`<section class="card rules" aria-labelledby="rules-heading">
      <header>
        <h2 id="rules-heading">Rules</h2>
        ${this.form ? nothing : html`<button type="button" @click=${() => this.open()}>${icon("plus")} Add a rule</button>`}
      </header>
      ${
        rules.length || this.form
          ? nothing
          : html`<p class="muted small">
              A rule mends a whole column, also in records that are not loaded yet. Edits by hand come after the rules.
            </p>`
      }
      ${
        rules.length
          ? html`<ol class="plain-list">
              ${rules.map((rule) => this.#rule(rule))}
            </ol>`
          : nothing
      }
      ${this.form ? this.#form() : nothing}
    </section>`
  }

  #rule(rule) {
    return html`<li>
      <div>
        ${rule.column === null ? nothing : html`<code>${rule.column}</code>`} <span class="value">${describe(rule)}</span>
        <div class="muted small">${scopeText(rule.code)}</div>
      </div>
      <button
        type="button"
        class="quiet icon-only"
        title="Remove the rule"
        aria-label=${`Remove the rule: ${rule.column ?? ""} ${describe(rule)}`}
        @click=${() => this.#remove(rule)}
      >
        ${icon("close")}
      </button>
    </li>`
  }

  #remove(rule) {
    this.page.edits.removeRule(rule)
    this.page.update()
  }

  #set(changes) {
    Object.assign(this.form, changes)
    this.page.update()
  }

  #definition() {
    const name = fieldOf(this.page.job, this.form.column)
    return this.page.fields.find((field) => field.name === name) ?? null
  }

  /** The kinds for the chosen column, and the chosen one or what suits the errors. */
  #kinds() {
    if (this.form.column === "") return ["drop"]
    return kindsFor(this.#definition(), this.page.job.format)
  }

  #kind(kinds) {
    return (
      [this.form.kind, SUGGESTED[this.form.scope], "nearest", "boolean", "replace"].find((kind) => kinds.includes(kind)) ??
      kinds[0]
    )
  }

  /** The rule that the form describes, without an id. */
  #draft() {
    const { column, scope, part, to } = this.form
    const definition = this.#definition()
    const kind = this.#kind(this.#kinds())
    const rule = { kind, column: column || null, code: scope === ALL ? null : scope }
    if (kind === "replace") {
      const from = this.form.from ?? this.#values()[0] ?? ""
      return { ...rule, from, to: part ? to : valueOf(to, definition, this.page.job.format), part: part && !definition?.enum }
    }
    if (kind === "fill") return { ...rule, to: valueOf(to, definition, this.page.job.format) }
    if (kind === "nearest") return { ...rule, allowed: definition.enum }
    if (kind === "boolean") return { ...rule, asText: this.page.job.format === "csv" }
    return rule
  }

  /** The values of the chosen column in the cells that the rule is about, the most frequent first. */
  #values() {
    const { column, scope } = this.form
    const counts = new Map()
    for (const record of this.page.known.values()) {
      const place = record.cells ? record.columns.indexOf(column) : -1
      if (place < 0) continue
      if (scope !== ALL && !record.errors.some((error) => error.column === column && (!scope || error.code === scope))) continue
      const text = textOf(this.page.edits.mended(record).cells[place])
      if (text) counts.set(text, (counts.get(text) ?? 0) + 1)
    }
    return [...counts].sort((one, other) => other[1] - one[1]).map(([text]) => text)
  }

  #effect(rule) {
    let count = 0
    for (const record of this.page.known.values()) {
      const mended = this.page.edits.mended(record)
      if (!mended.isOut && apply(rule, mended) !== mended) count += 1
    }
    return count
  }

  #form() {
    const { form } = this
    const kinds = this.#kinds()
    const rule = this.#draft()
    const needsTarget = rule.kind === "fill" && isEmpty(rule.to)
    const count = needsTarget ? 0 : this.#effect(rule)
    const codes = new Set()
    for (const record of this.page.known.values())
      for (const error of record.errors) if ((error.column ?? "") === form.column) codes.add(error.code)
    const hasGeneral = [...this.page.known.values()].some(({ errors }) => errors.some(({ column }) => column === null))
    const choice = (id, label, value, options, change) =>
      html`<div class="field">
        <label for=${id}>${label}</label>
        <select id=${id} @change=${(event) => change(event.target.value)}>
          ${options.map(([option, text]) => html`<option value=${option} ?selected=${option === value}>${text}</option>`)}
        </select>
      </div>`
    return html`<form class="stack" @submit=${(event) => this.#add(event, rule, count)}>
      ${choice(
        "rule-column",
        "Column",
        form.column,
        [...this.page.grid.columns.map((name) => [name, name]), ...(hasGeneral ? [["", "the whole record"]] : [])],
        (column) => this.#set({ column, kind: null, scope: "", from: null, to: "" }),
      )}
      ${choice(
        "rule-kind",
        "What to do",
        rule.kind,
        kinds.map((kind) => [kind, KINDS[kind].label]),
        (kind) => this.#set({ kind }),
      )}
      ${rule.kind === "replace" ? this.#from(rule) : nothing}
      ${["replace", "fill"].includes(rule.kind) ? this.#to(rule) : nothing}
      ${choice(
        "rule-scope",
        "Where",
        form.scope,
        [
          ...(codes.size > 1 || !codes.has(form.scope) ? [["", "cells with an error"]] : []),
          ...[...codes].map((code) => [code, `cells: ${labelOf(code)}`]),
          ...(rule.kind === "drop" ? [] : [[ALL, "all cells of the column"]]),
        ],
        (scope) => this.#set({ scope, from: null }),
      )}
      ${
        form.scope !== ALL && this.page.job.errors_stored < this.page.job.error_count
          ? html`<p class="hint">
              The import has more errors than are kept. Records whose errors are not known only match “all cells of the column”.
            </p>`
          : nothing
      }
      <p role="status" class="effect">
        <b>${format.count(count, "record")}</b> ${rule.kind === "drop" ? "left out" : count === 1 ? "changes" : "change"}${
          this.page.isWhole
            ? nothing
            : ` of the ${format.number(this.page.known.size)} loaded so far; the others are mended when you send`
        }
      </p>
      <div class="row">
        <button class="primary" ?disabled=${needsTarget || (!count && this.page.isWhole)}>Add the rule</button>
        <button type="button" @click=${() => this.close()}>Cancel</button>
      </div>
    </form>`
  }

  #from(rule) {
    return html`<div class="field">
      <label for="rule-from">Replace</label>
      <input
        id="rule-from"
        class="value"
        list="rule-values"
        autocomplete="off"
        spellcheck="false"
        .value=${rule.from}
        @input=${(event) => this.#set({ from: event.target.value })}
      />
      <datalist id="rule-values">
        ${this.#values()
          .slice(0, VALUES_MAX)
          .map((value) => html`<option value=${value}></option>`)}
      </datalist>
      ${
        this.#definition()?.enum
          ? nothing
          : html`<label class="check"
              ><input
                type="checkbox"
                .checked=${this.form.part}
                @change=${(event) => this.#set({ part: event.target.checked })}
              />
              Also within longer texts</label
            >`
      }
    </div>`
  }

  #to(rule) {
    const definition = this.#definition()
    const options = definition?.enum ?? (definition?.type === "boolean" ? ["true", "false"] : null)
    return html`<div class="field">
      <label for="rule-to">${rule.kind === "fill" ? "Fill with" : "By"}</label>
      ${
        options
          ? html`<select id="rule-to" class="value" @change=${(event) => this.#set({ to: event.target.value })}>
              ${["", ...options].map(
                (option) => html`<option value=${option} ?selected=${option === this.form.to}>${option || "(empty)"}</option>`,
              )}
            </select>`
          : html`<input
              id="rule-to"
              class="value"
              autocomplete="off"
              spellcheck="false"
              .value=${this.form.to}
              @input=${(event) => this.#set({ to: event.target.value })}
            />`
      }
    </div>`
  }

  #add(event, rule, count) {
    event.preventDefault()
    this.page.edits.addRule(rule)
    this.form = null
    this.page.announce(`Rule added: ${format.count(count, "record")} changed`)
    this.page.update()
    document.querySelector(".rules header button")?.focus()
  }
}

function scopeText(code) {
  if (code === null) return "all cells"
  return code ? `cells: ${labelOf(code)}` : "cells with an error"
}
