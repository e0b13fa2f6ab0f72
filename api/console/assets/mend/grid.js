// The grid of refused records: a field for each cell, its errors below it, and the keyboard.

import { html, noChange, nothing } from "../vendor/lit-html/lit-html.js"
import { live } from "../vendor/lit-html/directives/live.js"
import { repeat } from "../vendor/lit-html/directives/repeat.js"
import * as format from "../format.js"
import * as keyboard from "./grid_keys.js"
import { icon } from "../parts.js"
import { fault, fieldOf } from "./repair.js"
import { isSame, textOf, valueOf } from "./rules.js"

const LONG = 60
const PLACEHOLDERS = { time: "2026-01-31T12:00:00Z", uuid: "a UUID", "list of text": '["one", "two"]', boolean: "true or false" }

const REQUIRED = html`<span class="offscreen">required</span><span class="required" aria-hidden="true" title="required">*</span>`
const EDITED = html`<span class="mark" title="Edited">${icon("edit")}<span class="offscreen">edited</span></span>`

export class Grid {
  /** The cell that is open as a large text: `{record, column, text}`, or null. */
  opened = null
  // what was rendered last, by key of the record: typing renders one record, not all of them
  #rendered = new Map()
  #isShown = false

  /**
   * @param page `{job, fields, edits, rows, update(), undo()}`: the import, the definitions of its fields, the unsent edits, and
   *   the records that are shown
   */
  constructor(page) {
    this.page = page
  }

  /** The columns of the shown records, without those that the import leaves out. */
  get columns() {
    return this.#allColumns.filter((name) => fieldOf(this.page.job, name) !== null)
  }

  get #allColumns() {
    return [...new Set(this.page.rows.flatMap(({ columns }) => columns))]
  }

  /** To be called before each rendering of the page, which may have no grid in it. */
  begin() {
    if (!this.#isShown) this.#rendered.clear()
    this.#isShown = false
  }

  render() {
    const { columns } = this
    const before = this.#rendered
    const names = columns.join("\0")
    this.#rendered = new Map()
    this.#isShown = true
    const omitted = this.#allColumns.length - columns.length
    return html`
      <div class="mend-grid-scroll" @keydown=${(event) => this.#keydown(event)} @focusout=${() => this.page.edits.endTyping()}>
        <table class="cards mend-grid">
          <caption class="offscreen">
            Refused records with their errors
          </caption>
          <thead>
            <tr>
              <th scope="col" class="record-line">Line</th>
              ${columns.map((name) => this.#head(name))}
            </tr>
          </thead>
          ${repeat(
            this.page.rows,
            ({ key }) => key,
            (record, row) => {
              const mended = this.page.edits.mended(record)
              const last = before.get(record.key)
              this.#rendered.set(record.key, { record, mended, row, names })
              const isOld = last && last.record === record && last.mended === mended && last.row === row && last.names === names
              return isOld ? noChange : this.#record(record, mended, row, columns)
            },
          )}
        </table>
      </div>
      ${omitted ? html`<p class="note muted small">${format.count(omitted, "column")} that the import leaves out</p>` : nothing}
      ${this.#dialog()}
    `
  }

  #head(name) {
    const field = fieldOf(this.page.job, name)
    const definition = this.#definition(name)
    return html`<th scope="col" class=${this.#width(name)} title=${definition?.description ?? nothing}>
      ${name}${field === name ? nothing : html` <span class="muted">(${field})</span>`}
      ${definition?.required ? REQUIRED : nothing}
    </th>`
  }

  /** A class by the type of the column, so that its width does not change during typing. */
  #width(name) {
    const definition = this.#definition(name)
    if (definition?.enum || definition?.type === "boolean") return ""
    if (definition?.type === "time") return "wide-column"
    const lengths = this.page.rows.map(({ columns, cells }) => (cells ? textOf(cells[columns.indexOf(name)]).length : 0))
    const longest = Math.max(name.length, ...lengths)
    return longest > 26 && longest <= LONG ? "wider" : longest > 14 ? "wide-column" : ""
  }

  #definition(column) {
    const name = fieldOf(this.page.job, column)
    return this.page.fields.find((field) => field.name === name) ?? null
  }

  #record(record, mended, row, columns) {
    const state = this.page.edits.stateOf(record)
    const general = record.errors.filter(({ column }) => column === null)
    const isUnknown = !record.errors.length
    const id = `general-${row}`
    const hasGeneral = general.length > 0 || isUnknown
    return html`<tbody class=${state === "out" ? "out" : state === "edited" ? "edited" : ""}>
      <tr>
        <th scope="row" class="record-line full">
          <span class="line-label">Line</span> <span class="number-line">${format.number(record.line)}</span>
          <button
            type="button"
            class="quiet icon-only leave-out"
            aria-pressed=${state === "out" ? "true" : "false"}
            title=${state === "out" ? "Take the record in again" : "Leave the record out"}
            aria-label=${`Leave out the record of line ${record.line}`}
            @click=${() => this.#leaveOut(record, state !== "out")}
          >
            ${icon(state === "out" ? "retry" : "close")}
          </button>
          ${state === "edited" ? EDITED : nothing}
        </th>
        ${
          record.cells === null
            ? this.#raw(record, mended, row, columns.length, hasGeneral ? id : null)
            : columns.map((name, column) => this.#cell(record, mended, name, row, column))
        }
      </tr>
      ${
        hasGeneral
          ? html`<tr class="general">
              <td></td>
              <td colspan=${columns.length} id=${id} class="full">
                ${
                  isUnknown
                    ? html`<p class="muted small">
                        The errors of this record are not listed, as the import has more than are kept.
                      </p>`
                    : general.map((error) => message(error, state === "edited"))
                }
              </td>
            </tr>`
          : nothing
      }
    </tbody>`
  }

  #cell(record, mended, name, row, column) {
    const place = record.columns.indexOf(name)
    if (place < 0) return html`<td class="cell"></td>`
    const value = mended.cells[place] ?? null
    const original = textOf(record.cells[place])
    const errors = record.errors.filter((error) => error.column === name)
    const isChanged = !isSame(value, record.cells[place] ?? null)
    const id = `error-${row}-${column}`
    const attributes = {
      label: `${name}, line ${record.line}`,
      describedBy: errors.length ? id : nothing,
      invalid: errors.length && !isChanged ? "true" : nothing,
      row,
      column,
      isOut: mended.isOut ?? false,
      // by the value that was sent, so that a field does not change its kind during typing
      isLong: original.length > LONG || /[\r\n]/.test(original),
    }
    return html`<td
      class="cell ${errors.length ? (isChanged ? "treated" : "bad") : isChanged ? "changed" : ""}"
      data-label=${name}
    >
      ${this.#control(record, name, value, attributes)}
      ${errors.length ? html`<div id=${id}>${errors.map((error) => message(error, isChanged))}</div>` : nothing}
    </td>`
  }

  #control(record, name, value, { label, describedBy, invalid, row, column, isOut, isLong }) {
    const definition = this.#definition(name)
    const text = textOf(value)
    const set = (typed) => this.#set(record, name, valueOf(typed, definition, this.page.job.format))
    const options = definition?.enum ?? (definition?.type === "boolean" ? ["true", "false"] : null)
    if (options) {
      // JSON: the text "true" is not the value true
      const shown =
        definition.type === "boolean" && this.page.job.format !== "csv" && typeof value === "string"
          ? JSON.stringify(value)
          : text
      const odd = shown !== "" && !options.includes(shown)
      return html`<select
        class="value"
        aria-label=${label}
        aria-describedby=${describedBy}
        aria-invalid=${invalid}
        data-row=${row}
        data-column=${column}
        ?disabled=${isOut}
        @change=${(event) => set(event.target.value)}
      >
        ${odd ? html`<option value=${shown} .selected=${live(true)}>${shown}</option>` : nothing}
        <option value="" .selected=${live(shown === "")}>(empty)</option>
        ${options.map((option) => html`<option value=${option} .selected=${live(shown === option)}>${option}</option>`)}
      </select>`
    }
    if (isLong) {
      return html`<button
        type="button"
        class="long value ${invalid === "true" ? "invalid" : ""}"
        aria-label=${`${label}: open the long text`}
        aria-describedby=${describedBy}
        data-row=${row}
        data-column=${column}
        ?disabled=${isOut}
        @click=${() => this.#open(record, name, text)}
      >
        <span>${text.slice(0, 200)}</span>${icon("open")}
      </button>`
    }
    return html`<input
      type="text"
      class="value"
      autocomplete="off"
      spellcheck="false"
      aria-label=${label}
      aria-describedby=${describedBy}
      aria-invalid=${invalid}
      data-row=${row}
      data-column=${column}
      placeholder=${PLACEHOLDERS[definition?.type] ?? nothing}
      ?disabled=${isOut}
      .value=${live(text)}
      @input=${(event) => set(event.target.value)}
    />`
  }

  /** A record that cannot be split is one text. */
  #raw(record, mended, row, span, id) {
    if (record.raw === null)
      return html`<td colspan=${span} class="full">
        <p class="muted">This record is too large to be mended here. The download of the refused records has it.</p>
      </td>`
    const wrong = mended.raw === record.raw || mended.isOut ? null : fault(mended.raw, this.page.job, record.columns)
    return html`<td colspan=${span} class="cell full ${mended.raw === record.raw ? "bad" : "treated"}">
      <textarea
        class="value mono"
        rows=${Math.min(6, mended.raw.split("\n").length)}
        spellcheck="false"
        aria-label=${`The whole record, line ${record.line}`}
        aria-describedby=${id ?? nothing}
        aria-invalid=${mended.raw === record.raw || wrong ? "true" : nothing}
        data-row=${row}
        data-column="0"
        ?disabled=${mended.isOut}
        .value=${live(mended.raw)}
        @input=${(event) => this.#attempt(record, () => this.page.edits.setRaw(record, event.target.value))}
      ></textarea>
      ${wrong ? html`<p class="field-error">${icon("alert")} ${wrong}</p>` : nothing}
    </td>`
  }

  #set(record, name, value) {
    this.#attempt(record, () => this.page.edits.setCell(record, name, value))
  }

  #leaveOut(record, isOut) {
    this.#attempt(record, () => this.page.edits.setOut(record, isOut))
  }

  #attempt(record, change) {
    if (this.page.edits.canEdit(record)) change()
    else {
      this.page.tooMany()
      // the text of the field is not accepted
      this.#rendered.clear()
    }
    this.page.update()
  }

  // The long text of a cell

  #open(record, column, text) {
    this.opened = { record, column, text, back: document.activeElement }
    this.page.update()
    document.querySelector("#long-cell").showModal()
  }

  #dialog() {
    return html`<dialog
      id="long-cell"
      class="dialog large"
      aria-labelledby="long-heading"
      @close=${(event) => this.#closed(event.target)}
    >
      <h2 id="long-heading">${this.opened ? `${this.opened.column}, line ${format.number(this.opened.record.line)}` : ""}</h2>
      <textarea
        class="value"
        rows="12"
        aria-labelledby="long-heading"
        .value=${live(this.opened?.text ?? "")}
        @input=${(event) => (this.opened.text = event.target.value)}
      ></textarea>
      <form method="dialog" class="buttons">
        <button value="cancel">Cancel</button><button class="primary" value="use">Use this text</button>
      </form>
    </dialog>`
  }

  #closed(dialog) {
    const { record, column, text, back } = this.opened
    this.opened = null
    if (dialog.returnValue === "use") this.#set(record, column, valueOf(text, this.#definition(column), this.page.job.format))
    dialog.returnValue = ""
    this.page.update()
    const { row, column: place } = back.dataset
    keyboard.focusCell(Number(row), Number(place))
  }

  #keydown(event) {
    const { row, column } = event.target.dataset
    if (row === undefined || event.isComposing) return
    const record = this.page.rows[Number(row)]
    keyboard.press(event, {
      reset: () => this.#reset(record, this.columns[Number(column)]),
      open: () => this.#open(record, this.columns[Number(column)], event.target.value),
      announce: (text) => this.page.announce(text),
    })
  }

  #reset(record, column) {
    this.page.edits.reset(record, record.cells === null ? null : column)
    this.page.update()
    this.focusRecord(record.key, column)
  }

  /** Puts the focus into a cell, if that is on the page. */
  focusRecord(key, column) {
    const row = this.page.rows.findIndex((record) => record.key === key)
    if (row >= 0) keyboard.focusCell(row, Math.max(0, this.columns.indexOf(column)))
  }
}

function message(error, isTreated = false) {
  return html`<p class="field-error ${isTreated ? "treated" : ""}">
    ${icon(isTreated ? "edit" : "alert")}<span
      ><span class="offscreen">${isTreated ? "was: " : "error: "}</span>${error.message}</span
    >
  </p>`
}
