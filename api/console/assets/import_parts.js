// Parts of the page of one import: its headline, notices, buttons, numbers, downloads and facts.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { FAILURES } from "./causes.js"
import { asCurl } from "./client.js"
import * as format from "./format.js"
import { canMend, cancel, canUndo, commit, discard, fetchFile, retry, taken, undo } from "./job_actions.js"
import { command, copyable, exactTime, icon, isFinal } from "./parts.js"
import { navigate } from "./router.js"

/** The outcome of the import, in one sentence without a full stop. */
export function headline(job) {
  const total = format.count(job.total_records, "record")
  const refused = format.number(job.counts.failed)
  if (job.status === "pending") return "Waiting"
  if (job.status === "processing") {
    const isSettling = job.progress.percent === 100 && job.counts.unprocessed > 0
    return isSettling ? "Deciding on records that share a key" : job.dry_run ? "Checking the records" : "Importing the records"
  }
  if (job.status === "cancelled") return `Cancelled with ${format.count(job.counts.unprocessed, "record")} left`
  if (job.status === "failed") {
    return job.counts.unprocessed
      ? `Failed with ${format.count(job.counts.unprocessed, "record")} left`
      : `Failed; ${refused} of ${total} refused`
  }
  if (job.total_records === 0) return "The file has no records"
  if (job.outcome === "rejected") return job.total_records === 1 ? "The record was refused" : `All ${total} were refused`
  if (job.outcome === "partial") return `${refused} of ${total} ${job.counts.failed === 1 ? "was" : "were"} refused`
  const whole = job.total_records === 1 ? "The record was" : `All ${total} were`
  return job.dry_run ? `${whole} accepted` : `${whole} taken`
}

/** The problem of a failed import with a remedy; the meaning of a dry run. */
export function notices(job) {
  if (job.problem) {
    const remedy = FAILURES[job.problem.type.replace("/problems/", "")]
    return html`<div class="notice bad">
      ${icon("alert")}
      <div>
        <strong>${job.problem.title}</strong>
        <p>${capital(job.problem.detail)}.</p>
        ${remedy ? html`<p>${remedy}</p>` : nothing}
        ${job.after ? html`<p><a href=${`/ui/imports/${job.after}`}>Open the import that it waited for</a></p>` : nothing}
      </div>
    </div>`
  }
  if (job.dry_run && isFinal(job)) {
    return html`<div class="notice info">
      ${icon("info")}
      <div>
        <strong>Nothing has been stored yet.</strong>
        <p>The numbers are those that a real import would have given.</p>
      </div>
    </div>`
  }
  return nothing
}

const capital = (text) => text[0].toUpperCase() + text.slice(1)

/** The state of the undo, and the records that it has kept. */
export function undone({ links, undo: state }) {
  if (!state) return nothing
  const { changed, referred_to: referredTo } = state.kept
  const numbers = [
    [state.removed, "removed"],
    [changed, "kept because they were changed since"],
    [referredTo, "kept because others refer to them"],
    [state.missing, "deleted before by others"],
  ].filter(([count]) => count)
  return html`<div class="notice info">
    ${icon("info")}
    <div>
      <strong>${state.status === "running" ? "The import is being undone." : "The import was undone."}</strong>
      <p>Records that it created: ${numbers.map(([count, fate]) => `${format.number(count)} ${fate}`).join(", ") || "none"}.</p>
      ${
        state.status === "finished" && changed + referredTo
          ? html`<button type="button" class="link" @click=${() => fetchFile(`${links.kept_records}?format=csv`)}>
              ${icon("download")} List of kept records (CSV)
            </button>`
          : nothing
      }
    </div>
  </div>`
}

/** The buttons of the available actions. */
export function actions(job, page) {
  const { links } = job
  const button = (kind, name, label, action) =>
    html`<button type="button" class=${kind} data-changes @click=${action}>${icon(name)} ${label}</button>`
  const open = async (made) => {
    const child = await made
    if (child) navigate(`/ui/imports/${child.id}`)
  }
  if (links.cancel) {
    return button("danger", "stop", "Cancel", async () => {
      if (await cancel(job)) page.attempt(() => page.load())
    })
  }
  return html`
    ${links.commit ? button("primary", "check", "Store the records", () => open(commit(job))) : nothing}
    ${
      canMend(job)
        ? html`<a class=${links.commit ? "button" : "button primary"} data-changes href=${`/ui/imports/${job.id}/mend`}
            >${icon("edit")} Mend the refused records</a
          >`
        : nothing
    }
    ${links.retry ? button("", "retry", "Retry", () => open(retry(job))) : nothing}
    ${
      canUndo(job)
        ? button("danger", "undo", "Undo", async () => {
            // until it is finished
            if (await undo(job)) page.poll(() => page.load())
          })
        : nothing
    }
    ${button("quiet", "trash", "Delete", async () => {
      if (await discard(job)) navigate("/ui/imports")
    })}
  `
}

/** Speed, time and totals as numbers. */
export function tiles(job, stretches) {
  if (!job.started_at) return nothing
  const tile = (value, label) => html`<div class="tile"><b>${value}</b><span>${label}</span></div>`
  const average = job.progress.records_per_second
  const now = stretches.at(-1)?.rate
  const elapsed = format.secondsBetween(job.started_at, job.finished_at ?? new Date())
  const left = job.progress.eta_seconds
  return html`<div class="tiles">
    ${tile(format.number(taken(job)), job.dry_run ? "accepted" : "taken")}
    ${tile(format.number(job.counts.failed), `refused, ${format.percent(job.counts.failed, job.processed_records)}`)}
    ${isFinal(job) || now === undefined ? nothing : tile(format.number(Math.round(now)), "records/s now")}
    ${average === null ? nothing : tile(format.number(Math.round(average)), "records/s on average")}
    ${tile(format.duration(elapsed), isFinal(job) ? "took" : "so far")}
    ${left === null || job.status !== "processing" ? nothing : tile(format.duration(left), "left, estimated")}
  </div>`
}

/** The outcome of the refused and unprocessed records in the following imports. */
export function repaired({ repaired: totals, counts }) {
  if (!totals?.imports) return nothing
  const { taken, left } = totals
  const before = counts.failed + counts.unprocessed
  const kind = counts.unprocessed ? "refused and left" : "refused"
  if (!left) return html`<p class="because">Later imports have taken all of the ${kind} records.</p>`
  return html`<p class="because">
    Later imports have taken ${format.number(taken)} of the ${format.count(before, `${kind} record`)}; ${format.number(left)}
    ${left === 1 ? "is" : "are"} left.
  </p>`
}

/** Files of the errors, of the refused and unprocessed records, and of the results of the others. */
export function downloads(job) {
  const { failed, unprocessed } = job.counts
  const { links } = job
  const hasResults = links.results !== undefined && failed + unprocessed < job.total_records
  if (!isFinal(job) || !(failed || unprocessed || hasResults)) return nothing
  const kind = job.format.toUpperCase()
  const files = [
    ...(failed
      ? [
          [`${links.failed_records}?annotate=true`, "Refused records with their errors", `${kind}, line and errors first`],
          [links.failed_records, "Refused records as sent", kind],
        ]
      : []),
    ...(unprocessed ? [[links.unprocessed_records, "Records that are left", `${kind}, as sent`]] : []),
    ...(failed
      ? [
          [`${links.errors}?format=csv`, "List of errors (CSV)", "For spreadsheets"],
          [`${links.errors}?format=ndjson`, "List of errors (NDJSON)", "For programs"],
        ]
      : []),
    ...(hasResults
      ? [[`${links.results}?format=csv`, "Results of the records (CSV)", "Line, id and outcome of each that was not refused"]]
      : []),
  ]
  return html`<section class="card" aria-labelledby="downloads-heading">
    <h2 id="downloads-heading">Downloads</h2>
    <ul class="files">
      ${files.map(
        ([path, label, hint]) =>
          html`<li>
            <button type="button" class="link" @click=${() => fetchFile(path)}>${icon("download")} ${label}</button>
            <div class="muted small">${hint}</div>
          </li>`,
      )}
    </ul>
  </section>`
}

/** Details of the file and the import, and the requests that do the same as the page. */
export function facts(job, { isWide }) {
  const fact = (name, value) =>
    html`<dt>${name}</dt>
      <dd>${value}</dd>`
  const columns = Object.entries(job.columns ?? {})
  return html`<section class="card" aria-labelledby="facts-heading">
    <h2 id="facts-heading">Details</h2>
    <dl class=${isWide ? "facts two" : "facts"}>
      ${fact("Resource", html`<a href=${`/ui/resources/${job.resource}`}>${job.resource}</a>`)} ${fact("Mode", job.mode)}
      ${fact("Format", job.format.toUpperCase())} ${fact("Size", html`${format.bytes(job.file.bytes)}, unpacked`)}
      ${job.source ? fact("Source", html`<code>${job.source.url}</code>`) : nothing}
      ${fact("Created", exactTime(job.created_at))} ${job.created_by ? fact("By", job.created_by) : nothing}
      ${job.started_at ? fact("Started", exactTime(job.started_at)) : nothing}
      ${job.finished_at ? fact("Finished", exactTime(job.finished_at)) : nothing}
      ${job.expires_at ? fact("Deleted on", exactTime(job.expires_at)) : nothing}
      ${job.after ? fact("After", html`<a href=${`/ui/imports/${job.after}`}>${job.after}</a>`) : nothing}
      ${
        columns.length
          ? fact(
              "Columns",
              html`<ul class="renamed">
                ${columns.map(
                  ([name, field]) =>
                    html`<li><code>${name}</code> → ${field === null ? "left out" : html`<code>${field}</code>`}</li>`,
                )}
              </ul>`,
            )
          : nothing
      }
      ${fact("Id", copyable(job.id, "id"))} ${fact("SHA-256", copyable(job.file.sha256, "SHA-256"))}
    </dl>
    <details class="curl">
      <summary>as curl</summary>
      ${requests(job).map((text) => command(text))}
    </details>
  </section>`
}

function requests(job) {
  const { links } = job
  return [
    asCurl("GET", links.self),
    ...(isFinal(job) ? [] : [asCurl("GET", links.events), asCurl("POST", links.cancel)]),
    ...(job.counts.failed ? [asCurl("GET", `${links.failed_records}?annotate=true`)] : []),
    ...(links.commit ? [asCurl("POST", links.commit)] : []),
    ...(links.retry ? [asCurl("POST", links.retry)] : []),
    ...(links.undo && isFinal(job) ? [asCurl("POST", links.undo)] : []),
    ...(isFinal(job) ? [asCurl("DELETE", links.self)] : []),
  ]
}
