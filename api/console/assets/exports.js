// The list of background exports.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { repeat } from "./vendor/lit-html/directives/repeat.js"
import { download, post, remove } from "./client.js"
import * as format from "./format.js"
import { JobListPage } from "./job_list.js"
import { ask, command, empty, failure, icon, isFinal, loading, stale, state, time, toast } from "./parts.js"
import { setQuery } from "./router.js"

const TABS = [
  ["", "All"],
  ["processing", "Running"],
  ["pending", "Waiting"],
  ["completed", "Completed"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
  ["expired", "Expired"],
]

export default class ExportsPage extends JobListPage {
  kind = "exports"

  get title() {
    return "Exports"
  }

  get filters() {
    return { status: this.query.get("status"), resource: this.query.get("resource") }
  }

  open() {
    this.poll(() => this.load())
    this.loadResources()
  }

  /** Loads the newest page. Older pages that are shown stay. Returns the seconds until the next load. */
  async load() {
    const page = await this.loadPage()
    const fresh = new Set(page.exports.map(({ id }) => id))
    const last = page.exports.at(-1)
    const older = (this.jobs ?? []).filter(({ id, created_at: at }) => !fresh.has(id) && last && at < last.created_at)
    if (!older.length) this.cursor = page.next_cursor
    this.jobs = [...page.exports, ...older]
    return this.jobs.some((job) => !isFinal(job)) ? 1 : 15
  }

  filter(changes) {
    setQuery(changes)
    this.query = new URLSearchParams(location.search)
    this.jobs = null
    this.update()
    return this.attempt(() => this.load())
  }

  render() {
    const status = this.query.get("status") ?? ""
    return html`
      <div class="head">
        <h1>Exports</h1>
        <a class="button" href="/ui/exports/new">${icon("plus")} New export</a>
      </div>
      <nav class="tabs" aria-label="By state">
        ${TABS.map(
          ([name, label]) => html`<a
            href=${name ? `/ui/exports?status=${name}` : "/ui/exports"}
            aria-current=${name === status ? "page" : nothing}
            @click=${(event) => {
              event.preventDefault()
              this.filter({ status: name })
            }}
            >${label}</a
          >`,
        )}
      </nav>
      <div class="filters" role="search">
        <select data-filter aria-label="Resource" @change=${(event) => this.filter({ resource: event.target.value })}>
          ${["", ...this.resources].map(
            (name) =>
              html`<option value=${name} ?selected=${(this.query.get("resource") ?? "") === name}>${name || "All resources"}</option>`,
          )}
        </select>
      </div>
      ${this.jobs ? stale(this) : nothing}
      ${this.jobs === null
        ? this.problem
          ? failure(this.problem, () => this.filter({}))
          : loading()
        : this.jobs.length
          ? this.#list()
          : this.#empty()}
    `
  }

  #empty() {
    if (this.query.get("status") || this.query.get("resource")) {
      return html`<div class="card">
        ${empty(
          "No export matches",
          "None of the exports that are kept has this state and this resource.",
          html`<button type="button" @click=${() => this.filter({ status: "", resource: "" })}>Show all exports</button>`,
        )}
      </div>`
    }
    return html`<div class="card">
      ${empty(
        "No exports yet",
        "A worker writes a file that can be downloaded; or take the records at once as a stream.",
        html`<p><a class="button primary" href="/ui/exports/new">${icon("plus")} New export</a></p>
          ${command(`curl -o users.csv '${location.origin}${this.path}/users/stream?format=csv'`)}`,
      )}
    </div>`
  }

  #list() {
    return html`
      <div class="card flush">
        <table class="cards">
          <caption class="offscreen">
            Exports, newest first
          </caption>
          <thead>
            <tr>
              <th scope="col">Export</th>
              <th scope="col">State</th>
              <th scope="col" class="bar-column">Progress</th>
              <th scope="col" class="number">Records</th>
              <th scope="col" class="number">Size</th>
              <th scope="col">Created</th>
              <th scope="col"><span class="offscreen">Actions</span></th>
            </tr>
          </thead>
          <tbody>
            ${repeat(
              this.jobs,
              ({ id }) => id,
              (job) => this.#row(job),
            )}
          </tbody>
        </table>
      </div>
      ${this.moreButton()}
    `
  }

  #row(job) {
    const filters = Object.keys(job.filters).length
    return html`<tr>
      <th scope="row" class="main-cell">
        <a href=${`/ui/exports/${job.id}`}>${job.resource}</a>
        <div class="sub muted small">
          ${job.format}${job.compression === "none" ? "" : `, ${job.compression}`}${job.fields ? `, ${format.count(job.fields.length, "field")}` : ""}${filters
            ? `, ${format.count(filters, "filter")}`
            : ""}${job.created_by ? ` · ${job.created_by}` : ""}
        </div>
      </th>
      <td data-label="State">${state(job)}</td>
      <td data-label="Progress" class="bar-column">${progress(job)}</td>
      <td data-label="Records" class="number">${number(job.file?.records ?? job.exported_records)}</td>
      <td data-label="Size" class="number">${job.file ? format.bytes(job.file.bytes) : "–"}</td>
      <td data-label="Created" class="nowrap">${time(job.created_at)}</td>
      <td class="number full">${this.#actions(job)}</td>
    </tr>`
  }

  #actions(job) {
    const button = (name, label, action, changes = true) => html`<button
      type="button"
      class="quiet icon-only"
      title=${label}
      aria-label=${`${label}: ${job.resource}, ${format.shortId(job.id)}`}
      ?data-changes=${changes}
      @click=${() => act(this, action)}
    >
      ${icon(name)}
    </button>`
    if (!isFinal(job)) return button("stop", "Cancel", () => cancel(job))
    return html`${job.links.download ? button("download", "Download", () => download(job.links.download), false) : nothing}${button(
      "trash",
      "Delete",
      () => destroy(job),
    )}`
  }
}

const number = (value) => (value === null || value === undefined ? "–" : format.number(value))

/** The progress of an export as a bar and a number; indeterminate until a worker has counted the rows. */
export function progress(job) {
  const { percent } = job.progress
  return html`<progress max="100" value=${percent ?? nothing} aria-label=${`Progress of ${job.resource}`}></progress>
    <div class="sub">${percent === null ? "not known yet" : `${format.percent(percent, 100)}`}</div>`
}

/** Runs an action on a job, shows its outcome, and reloads the page. `action` returns a message, or undefined. */
export async function act(page, action) {
  try {
    const done = await action()
    if (typeof done === "string") toast(done)
  } catch (problem) {
    if (problem.name === "AbortError") return
    toast(problem.message, "bad")
  }
  await page.attempt(() => page.load())
}

export async function cancel(job) {
  const sure = await ask({
    heading: "Cancel this export?",
    text: "The file that is being written is removed.",
    confirmLabel: "Cancel the export",
    danger: true,
  })
  if (!sure) return undefined
  await post(job.links.cancel)
  return "The export is being cancelled"
}

/** Deletes after a confirmation. Returns a message, or undefined if it was not confirmed. */
export async function destroy(job) {
  const sure = await ask({
    heading: "Delete this export?",
    text: job.file ? `The job and its file of ${format.bytes(job.file.bytes)} are removed.` : "The job is removed.",
    confirmLabel: "Delete",
    danger: true,
  })
  if (!sure) return undefined
  await remove(job.links.self)
  return "The export was deleted"
}
