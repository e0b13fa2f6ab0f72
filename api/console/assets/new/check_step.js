// Step 3: the options of the import, and the check of the whole files.

import { live } from "../vendor/lit-html/directives/live.js"
import { html, nothing } from "../vendor/lit-html/lit-html.js"
import { asCurl } from "../client.js"
import * as format from "../format.js"
import { MODES } from "../modes.js"
import { curl, icon } from "../parts.js"
import { select } from "./file_step.js"
import { heading, progress, refusal, report } from "./progress.js"

const PATH = "/api/v1/imports"

// the outcome of a record with a match, and of one without
const MATCHES = [
  ["insert", "refused", "created"],
  ["skip", "skipped", "created"],
  ["upsert", "updated, or unchanged", "created"],
  ["update", "updated, or unchanged", "refused"],
]

export function checkSummary(draft) {
  const { mode } = draft.options
  const checked = draft.entries.filter(({ check }) => check).map(({ check }) => check)
  if (!checked.length) return `${mode}, not checked`
  const sum = (count) => checked.reduce((total, job) => total + count(job), 0)
  const refused = sum(({ counts }) => counts.failed)
  return `${mode} · ${format.count(
    sum((job) => job.processed_records),
    "record",
  )} checked, ${refused ? format.number(refused) : "none"} refused`
}

/** The step while it is the current one. */
export function checkStep(page) {
  const { draft } = page
  return html`
    ${options(page)} ${results(page)} ${draft.isBusy ? nothing : actions(draft)}
    ${draft.entries.map((entry) => curl(asCurlForm(draft, entry)))}
  `
}

function actions(draft) {
  const isChecked = draft.entries.some(({ check }) => check)
  const isCurrent = isChecked && !draft.entries.some((entry) => draft.isOutdated(entry))
  const label = isChecked ? "Check again" : draft.entries.length > 1 ? "Check the whole files" : "Check the whole file"
  return html`<div class="buttons split" data-changes>
    <button type="button" class="quiet" @click=${() => draft.importAll()}>Import without checking</button>
    <button type="button" class=${isCurrent ? "" : "primary"} @click=${() => draft.checkAll()}>${label}</button>
    ${isCurrent ? html`<button type="button" class="primary" @click=${() => draft.goTo(4)}>Continue</button>` : nothing}
  </div>`
}

function asCurlForm(draft, entry) {
  return asCurl("POST", PATH, { form: draft.parameters(entry, { isDryRun: true }), file: entry.file.name })
}

/** The progress or the result of the check of each file. */
export function results(page) {
  return page.draft.entries.map((entry) => result(page, entry))
}

function result(page, entry) {
  const { draft } = page
  const title = heading(draft, entry)
  const isChecking = entry.sending?.parameters.dry_run || (entry.check && entry.stored === null)
  const parent = draft.waitsFor(entry)
  if (!entry.check && !isChecking && !entry.problem) {
    if (!parent || entry.isOver || draft.step > 3 || !draft.entries.some(({ check }) => check)) return nothing
    return html`<section class="checked-file">
      ${title}
      <p class="muted">It is checked when ${parent.file.name} is stored, because its records refer to those.</p>
    </section>`
  }
  return html`<section class="checked-file" aria-label=${`Check of ${entry.file.name}`}>
    ${title} ${draft.step === 3 ? refusal(entry) : nothing} ${progress(page, entry, { isDryRun: true })}
    ${
      draft.isOutdated(entry) && !entry.isBusy
        ? html`<p class="notice warn">${icon("alert")} <span>The columns or options have changed since this check.</span></p>`
        : nothing
    }
    ${entry.check ? report(entry.check) : nothing}
  </section>`
}

function options(page) {
  const { draft } = page
  const { options } = draft
  const fault = (field) => draft.entries.map((entry) => entry.fault(field)).find((message) => message) ?? null
  const set = (changes) => {
    Object.assign(options, changes)
    page.update()
  }
  const formats = new Set(draft.entries.map(({ preview }) => preview.format))
  const switches = [
    ["stop", "Stop at the first refused record"],
    ["undoable", "Remember which records are created, so that the import can be undone"],
    ["csv_safe", "Exported with csv_safe: remove the apostrophes before cells", formats.has("csv")],
    ["ignore_unknown", "Ignore keys that the resource does not have", formats.has("ndjson") || formats.has("json")],
  ].filter(([, , isUseful = true]) => isUseful)
  const names = [...new Set(draft.entries.flatMap((entry) => draft.resource(entry).modes))]
  return html`<fieldset class="options" ?disabled=${draft.isBusy}>
    <legend class="offscreen">Options</legend>
    <fieldset class="modes">
      <legend>Records that match a stored row</legend>
      ${names.map(
        (name) =>
          html`<label class="mode">
            <input
              type="radio"
              name="mode"
              value=${name}
              .checked=${live(options.mode === name)}
              @change=${() => set({ mode: name })}
            />
            <span><b>${name}</b> ${MODES[name] ?? ""}</span>
          </label>`,
      )}
      ${matches(draft)}
    </fieldset>
    <div class="option-fields">
      <fieldset class="budget">
        <legend>Stop when more is refused than</legend>
        ${input("max_errors", "Records", options.max_errors, fault("max_errors"), set)}
        ${input("max_error_percent", "Per cent", options.max_error_percent, fault("max_error_rate"), set)}
      </fieldset>
      ${select("after", "Begin after the import", page.afterOptions, options.after, fault("after"), (id) => set({ after: id }))}
      <div>${switches.map(([name, label]) => check(name, label, options[name], set))}</div>
    </div>
  </fieldset>`
}

function input(name, label, value, fault, set) {
  return html`<div class="field">
    <label for=${name}>${label}</label>
    <input
      id=${name}
      type="number"
      placeholder="no limit"
      .value=${live(value)}
      aria-invalid=${fault ? "true" : nothing}
      aria-describedby=${fault ? `${name}-fault` : nothing}
      @change=${(event) => set({ [name]: event.target.value })}
    />
    ${fault ? html`<p id=${`${name}-fault`} class="field-error">${icon("alert")} ${fault}</p>` : nothing}
  </div>`
}

function check(name, label, value, set) {
  return html`<label class="check">
    <input type="checkbox" .checked=${live(value)} @change=${(event) => set({ [name]: event.target.checked })} /> ${label}
  </label>`
}

function matches(draft) {
  const keys = [...new Set(draft.entries.map(({ resource }) => resource))].map((resource) => {
    const key = draft.resources.find(({ name }) => name === resource).fields.find(({ key }) => key)
    return `${resource}: ${key ? key.name : "none"}`
  })
  return html`<details class="curl">
    <summary>What is a match</summary>
    <p>
      A record with an <code>id</code> matches the stored row that has it; one without matches by its natural key
      (${keys.join("; ")}).
    </p>
    <table class="plain">
      <caption class="offscreen">
        What becomes of a record in each mode
      </caption>
      <thead>
        <tr>
          <th scope="col">Mode</th>
          <th scope="col">With a match</th>
          <th scope="col">Without</th>
        </tr>
      </thead>
      <tbody>
        ${MATCHES.map(
          ([mode, match, none]) =>
            html`<tr>
              <th scope="row">${mode}</th>
              <td>${match}</td>
              <td>${none}</td>
            </tr>`,
        )}
      </tbody>
    </table>
  </details>`
}
