// One row of the list of imports, with its actions.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import * as format from "./format.js"
import { cancel, discard, fetchFile, nameOf, retry, taken } from "./job_actions.js"
import { fates, icon, isFinal, state, time } from "./parts.js"
import { navigate } from "./router.js"

/** @param {import("./imports.js").default} page */
export function row(job, page) {
  const total = job.total_records
  const took = job.started_at ? format.secondsBetween(job.started_at, job.finished_at ?? new Date()) : null
  return html`<tr class=${page.selection.has(job) ? "chosen" : ""}>
    <td class="select-cell" data-changes>
      <input
        type="checkbox"
        aria-label=${`Select ${nameOf(job)}`}
        .checked=${page.selection.has(job)}
        @click=${(event) => page.selection.toggle(job, event)}
      />
    </td>
    <th scope="row" class="main-cell">
      <a class="clamped" href=${`/ui/imports/${job.id}`} title=${nameOf(job)}>${nameOf(job)}</a>
      <div class="sub muted small">
        ${job.resource} · ${job.mode} ${job.dry_run ? html`<span class="chip plain">dry run</span>` : nothing}
        ${job.created_by ? html`· ${job.created_by}` : nothing}
      </div>
    </th>
    <td data-label="State">${state(job)}</td>
    <td data-label="Progress" class="bar-column">
      ${fates(job)}
      <div class="sub">
        ${total ? `${format.percent(job.processed_records, total)} of ${format.number(total)}` : "no records"}
      </div>
    </td>
    <td data-label="Taken" class="number">${format.number(taken(job))}</td>
    <td data-label="Refused" class="number">${format.number(job.counts.failed)}</td>
    <td data-label="Records/s" class="number">
      ${job.progress.records_per_second === null ? "–" : format.short(job.progress.records_per_second)}
    </td>
    <td data-label="Created" class="nowrap">${time(job.created_at)}</td>
    <td data-label="Took" class="number">${took === null ? "–" : format.duration(took)}</td>
    <td class="number full actions-cell">${actions(job, page)}</td>
  </tr>`
}

function actions(job, page) {
  const button = (name, label, action) =>
    html`<button
      type="button"
      class="quiet icon-only"
      ?data-changes=${name !== "download"}
      title=${label}
      aria-label=${`${label}: ${nameOf(job)}`}
      @click=${action}
    >
      ${icon(name)}
    </button>`
  const reload = async (isDone) => {
    if (await isDone) await page.attempt(() => page.load())
  }
  if (!isFinal(job)) return button("stop", "Cancel", () => reload(cancel(job)))
  return html`${
    job.counts.failed
      ? button("download", "Download the refused records", () => fetchFile(`${job.links.failed_records}?annotate=true`))
      : nothing
  }${
    job.links.retry
      ? button("retry", "Retry", async () => {
          const child = await retry(job)
          if (child) navigate(`/ui/imports/${child.id}`)
        })
      : nothing
  }${button("trash", "Delete", () => reload(discard(job)))}`
}
