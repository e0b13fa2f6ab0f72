// Step 2: which field each column of a file is.

import { live } from "../vendor/lit-html/directives/live.js"
import { html, nothing } from "../vendor/lit-html/lit-html.js"
import * as format from "../format.js"
import { icon, toast } from "../parts.js"
import { heading } from "./progress.js"
import { apply, choose, fromText, missing, toText } from "./columns.js"

const HOW = {
  matched: ["good", "check", "Matched"],
  guessed: ["info", "info", "Guessed"],
  remembered: ["info", "retry", "Remembered"],
  chosen: ["good", "check", "Chosen"],
  "left out": ["neutral", "close", "Left out"],
}

export function columnsSummary({ entries }) {
  const columns = entries.flatMap((entry) => entry.columns)
  const used = columns.filter(({ field }) => field !== null).length
  const left = columns.length - used
  return `${format.count(used, "column")} mapped${left ? `, ${format.number(left)} left out` : ""}`
}

export function columnsStep(page) {
  const { entries } = page.draft
  return entries.map(
    (entry, n) => html`<section class="stack" aria-label=${`Columns of ${entry.file.name}`}>${mapping(page, entry, n)}</section>`,
  )
}

function mapping(page, entry, n) {
  const { draft } = page
  const resource = draft.resource(entry)
  const title = heading(draft, entry)
  if (!entry.columns.length) {
    return html`${title}
      <p class="muted">Nothing to map was found in the beginning of this file. Its columns must have the names of the fields.</p>`
  }
  const absent = missing(entry.columns, resource)
  const isCsv = entry.preview.format === "csv"
  const faults = (entry.problem?.errors ?? []).filter(
    ({ field, code }) => field === "columns" || code === "missing_required" || code === "unknown_field",
  )
  return html`${title} ${faults.length ? refused(faults) : nothing}
    ${
      absent.length
        ? html`<p class="notice ${isCsv ? "warn" : "info"}">
            ${icon("alert")}
            <span>
              ${isCsv ? "Required, and no column is it yet" : "Required, and not a key of the first objects"}:
              ${absent.map((name, i) => html`${i ? ", " : ""}<code>${name}</code>`)}
            </span>
          </p>`
        : nothing
    }
    <div class="scroll">
      <table class="cards mapping">
        <caption class="offscreen">
          Columns of ${entry.file.name} and the fields that they are
        </caption>
        <thead>
          <tr>
            <th scope="col">In the file</th>
            <th scope="col">First values</th>
            <th scope="col">Field of ${entry.resource}</th>
            <th scope="col">State</th>
          </tr>
        </thead>
        <tbody>
          ${entry.columns.map((column, row) => mappingRow(page, entry, resource, column, `field-${n}-${row}`))}
        </tbody>
      </table>
    </div>
    <div class="row">
      <button type="button" class="quiet" @click=${() => save(entry)}>${icon("download")} Save this mapping</button>
      <button type="button" class="quiet" @click=${(event) => event.target.closest(".row").querySelector("input").click()}>
        ${icon("upload")} Load a mapping
      </button>
      <input type="file" accept=".json,application/json" hidden @change=${(event) => load(page, entry, event.target)} />
      <span class="hint">Remembered in this browser for files with the same names.</span>
    </div>`
}

function refused(faults) {
  return html`<div class="notice bad" role="alert">
    ${icon("alert")}
    <div>
      <strong>The service does not accept these columns</strong>
      <ul>
        ${faults.map(({ field, message }) => html`<li><code>${field}</code> ${message}</li>`)}
      </ul>
    </div>
  </div>`
}

function mappingRow(page, entry, resource, column, id) {
  const [tone, sign, label] = HOW[column.how]
  const fault = entry.fault(column.name)
  const pick = (event) => {
    choose(entry.columns, column.name, event.target.value || null)
    page.update()
  }
  return html`<tr>
    <th scope="row" class="full"><label for=${id}>${column.name}</label></th>
    <td class="full samples" data-label="First values">
      ${
        column.samples.length
          ? column.samples.map((value) =>
              value === null ? html`<span class="muted">empty</span>` : html`<span class="value">${value}</span>`,
            )
          : html`<span class="muted">no rows</span>`
      }
    </td>
    <td class="full" data-label=${`Field of ${resource.name}`}>
      <select
        id=${id}
        aria-invalid=${fault ? "true" : nothing}
        aria-describedby=${fault ? `${id}-fault` : nothing}
        @change=${pick}
      >
        <option value="" .selected=${live(column.field === null)}>Leave out</option>
        ${resource.fields.map(
          ({ name, required }) =>
            html`<option value=${name} .selected=${live(column.field === name)}>
              ${name}${required ? " (required)" : ""}${takenBy(entry, name, column)}
            </option>`,
        )}
      </select>
      ${fault ? html`<p id=${`${id}-fault`} class="field-error">${icon("alert")} ${fault}</p>` : nothing}
    </td>
    <td class="full" data-label="State"><span class="chip ${tone}">${icon(sign)} ${label}</span></td>
  </tr>`
}

/** A field has one column: to choose it here takes it from the other one. */
function takenBy(entry, name, column) {
  const other = entry.columns.find(({ field }) => field === name)
  return other && other !== column ? ` – now ${other.name}` : ""
}

function save(entry) {
  const link = document.createElement("a")
  link.href = URL.createObjectURL(new Blob([toText(entry.resource, entry.columns)], { type: "application/json" }))
  link.download = `${entry.resource}-columns.json`
  link.click()
  URL.revokeObjectURL(link.href)
}

async function load(page, entry, input) {
  const [file] = input.files
  input.value = ""
  if (!file) return
  try {
    const mapping = fromText(await file.text())
    const known = entry.columns.filter(({ name }) => Object.hasOwn(mapping, name)).length
    apply(entry.columns, mapping, page.draft.resource(entry), "chosen")
    toast(`The mapping names ${known} of the ${format.count(entry.columns.length, "column")}`)
  } catch (error) {
    toast(error.message, "bad")
  }
  page.update()
}
