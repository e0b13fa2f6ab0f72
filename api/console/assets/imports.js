// The list of imports: tabs with counts, filters, rows that are renewed in place, actions on one and on many.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { repeat } from "./vendor/lit-html/directives/repeat.js"
import { download, get, post, remove } from "./client.js"
import * as format from "./format.js"
import { Page } from "./page.js"
import { ask, command, empty, failure, fates, icon, isFinal, loading, stale, state, time, toast } from "./parts.js"
import { navigate, setQuery } from "./router.js"

const PATH = "/api/v1/imports"
const PAGE = 50

// the tabs: a name for the address, a label, the filters of the API, and where the count is found
const TABS = [
  { name: "", label: "All", query: {}, count: (counts) => counts.total },
  { name: "running", label: "Running", query: { status: "processing" }, count: (counts) => counts.status.processing },
  { name: "waiting", label: "Waiting", query: { status: "pending" }, count: (counts) => counts.status.pending },
  { name: "partial", label: "Partly refused", query: { outcome: "partial" }, count: (counts) => counts.outcome.partial },
  { name: "rejected", label: "All refused", query: { outcome: "rejected" }, count: (counts) => counts.outcome.rejected },
  { name: "failed", label: "Failed", query: { status: "failed" }, count: (counts) => counts.status.failed },
  { name: "cancelled", label: "Cancelled", query: { status: "cancelled" }, count: (counts) => counts.status.cancelled },
]

const WITHIN = { "1 hour": 3600, "24 hours": 86400, "7 days": 7 * 86400 }

export default class ImportsPage extends Page {
  /** The shown jobs, newest first; null until they are known. */
  jobs = null
  counts = null
  cursor = null
  resources = []
  /** Jobs that are newer than those shown: they wait for a click, so that the list does not move under the pointer. */
  newer = []
  selected = new Set()
  lastSelected = null
  bulk = null

  get title() {
    return "Imports"
  }

  get tab() {
    return TABS.find(({ name }) => name === (this.query.get("status") ?? "")) ?? TABS[0]
  }

  get filters() {
    const within = WITHIN[this.query.get("within")]
    return {
      ...this.tab.query,
      resource: this.query.get("resource"),
      name: this.query.get("name"),
      dry_run: this.query.get("dry_run"),
      created_after: within ? new Date(Date.now() - within * 1000).toISOString() : null,
    }
  }

  get isFiltered() {
    return ["resource", "name", "dry_run", "within"].some((name) => this.query.get(name))
  }

  open() {
    this.poll(() => this.load())
    this.attempt(async () => {
      this.resources = (await get("/api/v1/resources", {}, this)).resources.map(({ name }) => name)
    })
  }

  /** Loads the newest page and merges it with what is shown. Returns the seconds until the next time. */
  async load() {
    const filters = this.filters
    const page = await get(PATH, { ...filters, limit: PAGE, counts: true }, this)
    this.counts = page.counts
    if (this.jobs === null || !this.jobs.length || filters.status === "processing" || filters.status === "pending") {
      this.jobs = page.imports
      this.cursor = page.next_cursor
      this.newer = []
    } else {
      const shown = new Map(page.imports.map((job) => [job.id, job]))
      this.jobs = this.jobs.map((job) => shown.get(job.id) ?? job)
      const known = new Set(this.jobs.map(({ id }) => id))
      this.newer = page.imports.filter(({ id, created_at }) => !known.has(id) && created_at > this.jobs[0].created_at)
    }
    return this.jobs.some((job) => !isFinal(job)) || this.newer.some((job) => !isFinal(job)) ? 2 : 15
  }

  reload() {
    this.jobs = null
    this.newer = []
    this.selected.clear()
    this.update()
    return this.attempt(() => this.load())
  }

  filter(changes) {
    setQuery(changes)
    this.query = new URLSearchParams(location.search)
    return this.reload()
  }

  showNewer() {
    this.jobs = [...this.newer, ...this.jobs]
    this.newer = []
    this.update()
  }

  more() {
    return this.attempt(async () => {
      const page = await get(PATH, { ...this.filters, limit: PAGE, cursor: this.cursor }, this)
      this.jobs.push(...page.imports)
      this.cursor = page.next_cursor
    })
  }

  render() {
    return html`
      <div class="head">
        <h1>Imports</h1>
      </div>
      <nav class="tabs" aria-label="By state">
        ${TABS.map(
          (tab) => html`<a
            href=${`/ui/imports${this.#queryWith({ status: tab.name })}`}
            aria-current=${tab === this.tab ? "page" : nothing}
            @click=${(event) => {
              event.preventDefault()
              this.filter({ status: tab.name })
            }}
            >${tab.label} ${this.counts ? html`<span class="count">${format.number(tab.count(this.counts) ?? 0)}</span>` : nothing}</a
          >`,
        )}
      </nav>
      ${this.#filterBar()} ${this.jobs ? stale(this) : nothing}
      ${this.jobs === null ? (this.problem ? failure(this.problem, () => this.reload()) : loading()) : this.#list()}
    `
  }

  #queryWith(changes) {
    const query = new URLSearchParams(this.query)
    for (const [name, value] of Object.entries(changes)) {
      if (value) query.set(name, value)
      else query.delete(name)
    }
    const text = query.toString()
    return text ? `?${text}` : ""
  }

  #filterBar() {
    const select = (name, label, options) => html`<select
      aria-label=${label}
      @change=${(event) => this.filter({ [name]: event.target.value })}
    >
      ${options.map(([value, text]) => html`<option value=${value} ?selected=${(this.query.get(name) ?? "") === value}>${text}</option>`)}
    </select>`
    return html`<div class="filters" role="search">
      <input
        type="search"
        data-filter
        placeholder="File name"
        aria-label="Part of the file name"
        .value=${this.query.get("name") ?? ""}
        @change=${(event) => this.filter({ name: event.target.value.trim() })}
      />
      ${select("resource", "Resource", [["", "All resources"], ...this.resources.map((name) => [name, name])])}
      ${select("within", "Time", [["", "Any time"], ...Object.keys(WITHIN).map((name) => [name, `Last ${name}`])])}
      ${select("dry_run", "Kind", [
        ["", "Real and dry runs"],
        ["false", "Real imports"],
        ["true", "Dry runs"],
      ])}
      ${this.isFiltered
        ? html`<button type="button" class="quiet" @click=${() => this.filter({ name: "", resource: "", within: "", dry_run: "" })}>
            ${icon("close")} Clear
          </button>`
        : nothing}
    </div>`
  }

  #list() {
    if (!this.jobs.length && !this.newer.length) {
      if (this.isFiltered || this.tab !== TABS[0]) {
        return html`<div class="card">
          ${empty(
            "No import matches",
            "None of the imports that are kept has this state and these properties.",
            html`<button type="button" @click=${() => this.filter({ status: "", name: "", resource: "", within: "", dry_run: "" })}>
              Show all imports
            </button>`,
          )}
        </div>`
      }
      return html`<div class="card">
        ${empty(
          "No imports yet",
          "Drop a file anywhere on this page, choose one, or post it from a terminal.",
          html`<p><a class="button primary" href="/ui/new">${icon("upload")} Choose a file</a></p>
            ${command(`curl -F resource=users -F file=@users.csv ${location.origin}${PATH}`)}`,
        )}
      </div>`
    }
    return html`
      ${this.newer.length
        ? html`<p class="row"><button type="button" @click=${() => this.showNewer()}>${format.count(this.newer.length, "new import")}</button></p>`
        : nothing}
      <div class="card flush">
        ${this.selected.size || this.bulk ? this.#selection() : nothing}
        <table class="cards">
          <caption class="offscreen">
            Imports, newest first
          </caption>
          <thead>
            <tr>
              <th scope="col"><span class="offscreen">Select</span></th>
              <th scope="col">File</th>
              <th scope="col">State</th>
              <th scope="col" class="bar-column">Progress</th>
              <th scope="col" class="number">Taken</th>
              <th scope="col" class="number">Refused</th>
              <th scope="col" class="number">Records/s</th>
              <th scope="col">Created</th>
              <th scope="col" class="number">Took</th>
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
      ${this.cursor ? html`<p class="row center-row"><button type="button" @click=${() => this.more()}>Show older imports</button></p>` : nothing}
    `
  }

  #row(job) {
    const name = job.file.name ?? "no file name"
    const taken = job.counts.created + job.counts.updated + job.counts.unchanged + job.counts.skipped
    const took = job.started_at ? format.secondsBetween(job.started_at, job.finished_at ?? new Date()) : null
    return html`<tr>
      <td class="full">
        <input
          type="checkbox"
          aria-label=${`Select ${name}`}
          .checked=${this.selected.has(job.id)}
          @click=${(event) => this.#select(job, event)}
        />
      </td>
      <th scope="row" class="main-cell">
        <a href=${`/ui/imports/${job.id}`}>${name}</a>
        <div class="sub muted small">
          ${job.resource} · ${job.mode} ${job.dry_run ? html`<span class="chip plain">dry run</span>` : nothing}
          ${job.created_by ? html`· ${job.created_by}` : nothing}
        </div>
      </th>
      <td data-label="State">${state(job)}</td>
      <td data-label="Progress" class="bar-column">
        ${fates(job)}
        <div class="sub">${format.percent(job.processed_records, job.total_records || 1)} of ${format.number(job.total_records)}</div>
      </td>
      <td data-label="Taken" class="number">${format.number(taken)}</td>
      <td data-label="Refused" class="number">${format.number(job.counts.failed)}</td>
      <td data-label="Records/s" class="number">${job.progress.records_per_second === null ? "–" : format.short(job.progress.records_per_second)}</td>
      <td data-label="Created" class="nowrap">${time(job.created_at)}</td>
      <td data-label="Took" class="number">${took === null ? "–" : format.duration(took)}</td>
      <td class="number full">${this.#actions(job)}</td>
    </tr>`
  }

  #actions(job) {
    const button = (name, label, action) => html`<button
      type="button"
      class="quiet icon-only"
      title=${label}
      aria-label=${`${label}: ${job.file.name ?? format.shortId(job.id)}`}
      @click=${action}
    >
      ${icon(name)}
    </button>`
    if (!isFinal(job)) return button("stop", "Cancel", () => this.cancel(job))
    return html`${job.counts.failed
      ? button("download", "Download the refused records", () =>
          this.#act(() => download(`${job.links.failed_records}?annotate=true`), "The download has begun"),
        )
      : nothing}${job.links.retry ? button("retry", "Retry", () => this.retry(job)) : nothing}${button("trash", "Delete", () =>
      this.delete(job),
    )}`
  }

  async #act(action, done) {
    const result = await this.attempt(action)
    if (this.problem) toast(this.problem.message, "bad")
    else if (done) toast(done)
    this.problem = null
    return result
  }

  async cancel(job) {
    const left = format.count(job.counts.unprocessed, "record")
    const sure = await ask({
      heading: "Cancel this import?",
      text: `What is stored stays. ${left} of ${job.file.name ?? "the file"} will not be imported.`,
      confirmLabel: "Cancel the import",
      danger: true,
    })
    if (!sure) return
    await this.#act(() => post(job.links.cancel), "The import is being cancelled")
    await this.attempt(() => this.load())
  }

  async retry(job) {
    const retried = await this.#act(() => post(job.links.retry))
    if (retried) navigate(`/ui/imports/${retried.id}`)
  }

  async delete(job) {
    const sure = await ask({
      heading: "Delete this import?",
      text: `The job, its file and its ${format.count(job.error_count, "error")} are removed. The records that it stored stay.`,
      confirmLabel: "Delete",
      danger: true,
    })
    if (!sure) return
    await this.#act(async () => {
      await remove(job.links.self)
      this.jobs = this.jobs.filter(({ id }) => id !== job.id)
    }, "The import was deleted")
    await this.attempt(() => this.load())
  }

  // Many at once: one call after another, with a bar and a stop; each failure is listed.

  #select(job, event) {
    const isOn = event.target.checked
    const ids = this.jobs.map(({ id }) => id)
    const from = this.lastSelected ? ids.indexOf(this.lastSelected) : -1
    const to = ids.indexOf(job.id)
    const range = event.shiftKey && from >= 0 ? ids.slice(Math.min(from, to), Math.max(from, to) + 1) : [job.id]
    for (const id of range) {
      if (isOn) this.selected.add(id)
      else this.selected.delete(id)
    }
    this.lastSelected = job.id
    this.update()
  }

  #selection() {
    if (this.bulk) {
      const { verb, done, total, failures, isOver } = this.bulk
      return html`<div class="selection">
        <label class="grow">${verb} ${format.number(done)} of ${format.number(total)} <progress max=${total} value=${done}></progress></label>
        <button type="button" @click=${() => this.#endBulk()}>${isOver ? "Close" : "Stop"}</button>
        ${failures.length
          ? html`<ul class="small">
              ${failures.slice(0, 20).map(({ name, message }) => html`<li><b>${name}</b>: ${message}</li>`)}
              ${failures.length > 20 ? html`<li>and ${format.number(failures.length - 20)} more</li>` : nothing}
            </ul>`
          : nothing}
      </div>`
    }
    const matching = this.tab.count(this.counts ?? { status: {}, outcome: {} })
    const canBeMore = this.cursor !== null
    return html`<div class="selection" role="group" aria-label="Selected imports">
      <b>${format.count(this.selected.size, "import")} selected</b>
      ${canBeMore
        ? html`<button type="button" class="quiet" @click=${() => this.selectAll()}>
            Select all that match${this.isFiltered ? "" : ` (${format.number(matching)})`}
          </button>`
        : html`<button type="button" class="quiet" @click=${() => this.selectAll()}>Select all that match</button>`}
      <span class="grow"></span>
      <button type="button" @click=${() => this.bulkAct("cancel")}>Cancel</button>
      <button type="button" @click=${() => this.bulkAct("retry")}>Retry</button>
      <button type="button" class="danger" @click=${() => this.bulkAct("delete")}>Delete</button>
      <button type="button" class="quiet" @click=${() => (this.selected.clear(), this.update())}>Clear the selection</button>
    </div>`
  }

  selectAll() {
    return this.attempt(async () => {
      while (this.cursor) {
        const page = await get(PATH, { ...this.filters, limit: 100, cursor: this.cursor }, this)
        this.jobs.push(...page.imports)
        this.cursor = page.next_cursor
        this.update()
      }
      for (const { id } of this.jobs) this.selected.add(id)
    })
  }

  async bulkAct(name) {
    const jobs = this.jobs.filter(({ id }) => this.selected.has(id))
    const label = { cancel: "Cancel", retry: "Retry", delete: "Delete" }[name]
    const fits = jobs.filter((job) => (name === "cancel" ? !isFinal(job) : name === "retry" ? job.links.retry : isFinal(job)))
    const skipped = jobs.length - fits.length
    const sure = await ask({
      heading: `${label} ${format.count(fits.length, "import")}?`,
      text:
        (skipped ? `${format.number(skipped)} of the selected are in a state that does not allow it and are left as they are. ` : "") +
        (name === "delete" ? "The records that they stored stay." : name === "cancel" ? "What is stored stays." : "Their refused and left records are tried again."),
      confirmLabel: label,
      danger: name !== "retry",
    })
    if (!sure || !fits.length) return
    const verbs = { cancel: "Cancelled", retry: "Retried", delete: "Deleted" }
    this.bulk = { verb: verbs[name], done: 0, total: fits.length, failures: [], isStopped: false, isOver: false }
    for (const job of fits) {
      if (this.bulk.isStopped || this.signal.aborted) break
      try {
        if (name === "delete") await remove(job.links.self, this)
        else await post(job.links[name], undefined, this)
        this.selected.delete(job.id)
      } catch (error) {
        if (error.name === "AbortError") return
        this.bulk.failures.push({ name: job.file.name ?? format.shortId(job.id), message: error.message })
      }
      this.bulk.done += 1
      this.update()
    }
    this.bulk.isOver = true
    this.announce(`${this.bulk.verb} ${format.count(this.bulk.done - this.bulk.failures.length, "import")}`)
    if (!this.bulk.failures.length) this.bulk = null
    await this.reload()
  }

  #endBulk() {
    if (this.bulk.isOver) this.bulk = null
    else this.bulk.isStopped = true
    this.update()
  }
}
