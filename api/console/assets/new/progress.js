// The state of one import: its upload, its run, and its result.

import { html, nothing } from "../vendor/lit-html/lit-html.js"
import { listedCauses } from "../causes.js"
import * as format from "../format.js"
import { failure, fates, FATES, icon, isFinal, legend, state } from "../parts.js"

const SAMPLE = 5

/** The position of the file among several. */
export function heading({ entries }, { file, resource }) {
  return entries.length > 1 ? html`<h3>${file.name} <span class="muted">→ ${resource}</span></h3>` : nothing
}

/** The upload or the run of an entry's import. */
export function progress(page, entry, { isDryRun }) {
  if (entry.sending && Boolean(entry.sending.parameters.dry_run) === isDryRun) return uploading(page, entry)
  const job = isDryRun ? entry.check : entry.stored
  return job ? running(page, entry, job) : nothing
}

/** Why the last request about an entry failed. */
export function refusal({ problem }) {
  if (!problem) return nothing
  if (problem.errors.length) {
    return html`<p class="notice bad">${icon("alert")} <span>The service refused the request: correct what is marked.</span></p>`
  }
  if (!problem.isTemporary) return failure(problem)
  return html`<p class="notice warn">${icon("alert")} <span>${problem.message} It is tried again by itself.</span></p>`
}

function uploading(page, entry) {
  const { sending } = entry
  const { sentBytes, totalBytes, rate, secondsLeft, problem } = sending
  const facts = [
    `${format.bytes(sentBytes)} of ${format.bytes(totalBytes)}`,
    rate ? `${format.bytes(rate)}/s` : null,
    secondsLeft !== null && !sending.isSent ? `${format.duration(secondsLeft)} left` : null,
  ]
  return html`<div class="stack tight">
    <label class="transfer">
      <span><b>${sending.isSent ? "The service stores the file" : `Uploading ${entry.file.name}`}</b></span>
      <progress max=${totalBytes || 1} value=${sentBytes}></progress>
    </label>
    <div class="row">
      <span class="muted grow">${facts.filter(Boolean).join(" · ")}</span>
      <button type="button" @click=${() => page.draft.cancel(entry)}>${icon("close")} Cancel</button>
    </div>
    ${problem ? repetition(sending) : nothing}
  </div>`
}

function repetition(sending) {
  const { problem, pause, attempt } = sending
  const plan = pause ? `The file is sent again in ${pause} s` : `This is attempt ${attempt}`
  return html`<div class="notice warn">
    ${icon("alert")}
    <div>
      <p>${problem.message} ${plan}, with the same idempotency key: it makes one import.</p>
      ${pause ? html`<button type="button" @click=${() => sending.sendNow()}>${icon("retry")} Send it now</button>` : nothing}
    </div>
  </div>`
}

function running(page, entry, job) {
  const { records_per_second: rate, eta_seconds: left, percent } = job.progress
  const isOver = isFinal(job)
  const facts = isOver
    ? [job.started_at ? `took ${format.duration(format.secondsBetween(job.started_at, job.finished_at))}` : null]
    : [
        `${Math.floor(percent)} % of ${format.count(job.total_records, "record")}`,
        rate === null ? null : `${format.short(rate)} records/s`,
        left === null ? null : `${format.duration(left)} left`,
      ]
  return html`<div class="stack tight">
    <div class="row">
      ${state(job)} ${job.dry_run ? html`<span class="chip plain">dry run</span>` : nothing}
      <span class="muted grow">${facts.filter(Boolean).join(" · ")}</span>
      ${
        isOver
          ? html`<a href=${`/ui/imports/${job.id}`}>Open ${job.dry_run ? "the dry run" : "the import"}</a>`
          : html`<button type="button" @click=${() => page.draft.cancel(entry)}>${icon("stop")} Cancel</button>`
      }
    </div>
    ${isOver ? nothing : html`<progress max="100" value=${percent} aria-label="Records done"></progress>`}
    ${isOver && !job.dry_run ? html`${fates(job, { tall: true })} ${legend(job)}` : nothing}
    ${job.status === "pending" && job.waiting_for ? html`<p class="muted">${job.waiting_for}</p>` : nothing}
    ${job.problem ? html`<p class="notice bad">${icon("alert")} <span>${job.problem.detail}</span></p>` : nothing}
  </div>`
}

/** The result of a dry run: the outcome of the records, the errors by cause, some of them as examples. */
export function report(job) {
  if (!isFinal(job)) return nothing
  return html`
    <div class="tiles">
      ${FATES.filter(({ name }) => job.counts[name] || name === "created" || name === "failed").map(
        ({ name, label }) =>
          html`<div class="tile"><b>${format.number(job.counts[name])}</b><span>${would(name, label)}</span></div>`,
      )}
    </div>
    ${fates(job, { tall: true })} ${job.error_summary?.length ? causes(job) : nothing}
    ${job.errors?.length ? examples(job) : nothing}
  `
}

function would(name, label) {
  if (name === "failed") return "would be refused"
  if (name === "unprocessed") return "not checked"
  return `would be ${label.toLowerCase()}`
}

function causes(job) {
  const note = listedCauses(job)
  return html`<div class="cause-table">
    <h3>Errors by cause</h3>
    <table class="cards">
      <caption class="offscreen">
        Errors by cause
      </caption>
      <thead>
        <tr>
          <th scope="col">Cause</th>
          <th scope="col">Field</th>
          <th scope="col" class="number">Errors</th>
          <th scope="col" class="number">First line</th>
        </tr>
      </thead>
      <tbody>
        ${job.error_summary.map(
          ({ code, field, count, first_line: line }) =>
            html`<tr>
              <th scope="row" class="full"><code>${code}</code></th>
              <td data-label="Field">
                ${field === null ? html`<span class="muted">record</span>` : html`<code>${field}</code>`}
              </td>
              <td data-label="Errors" class="number">${format.number(count)}</td>
              <td data-label="First line" class="number">${format.number(line)}</td>
            </tr>`,
        )}
      </tbody>
    </table>
    ${note ? html`<p class="hint">${note}</p>` : nothing}
  </div>`
}

function examples(job) {
  // the first records, each with all of its errors
  const records = [...new Set(job.errors.map(({ record }) => record))].slice(0, SAMPLE)
  const errors = job.errors.filter(({ record }) => records.includes(record))
  const title = job.counts.failed > records.length ? `The first ${records.length} refused records` : "Refused records"
  return html`<div>
    <h3>${title}</h3>
    <table class="cards">
      <caption class="offscreen">
        ${title}
      </caption>
      <thead>
        <tr>
          <th scope="col">Line</th>
          <th scope="col">Record</th>
          <th scope="col">Field</th>
          <th scope="col">Value</th>
          <th scope="col">Error</th>
        </tr>
      </thead>
      <tbody>
        ${errors.map(
          ({ line, key, id, field, value, message }) =>
            html`<tr>
              <td data-label="Line">${format.number(line)}</td>
              <td data-label="Record" class="long-value"><span class="value">${key ?? id ?? "–"}</span></td>
              <td data-label="Field">${field === null ? "–" : html`<code>${field}</code>`}</td>
              <td data-label="Value" class="long-value">${value === null ? "–" : html`<span class="value">${value}</span>`}</td>
              <td data-label="Error" class="full">${message}</td>
            </tr>`,
        )}
      </tbody>
    </table>
  </div>`
}
