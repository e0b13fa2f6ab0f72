// The list of imports: tabs with counts, filters, rows that are updated in place, actions on one and on many.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { repeat } from "./vendor/lit-html/directives/repeat.js"
import { Selection } from "./bulk.js"
import { get, Problem } from "./client.js"
import * as format from "./format.js"
import { row } from "./import_row.js"
import { JobListPage } from "./job_list.js"
import { command, empty, failure, icon, isFinal, loading, stale } from "./parts.js"
import { setQuery } from "./router.js"

// running imports that are not among the newest are loaded one by one, at most this many at a time
const RENEWED_MAX = 10

// the tabs: a name for the address, a label, the filters of the API, and the source of the count
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
const NO_FILTERS = { name: "", resource: "", within: "", dry_run: "" }

export default class ImportsPage extends JobListPage {
  kind = "imports"
  counts = null
  /** Matching jobs that are not shown yet: they are shown after a click, so that the list does not move under the pointer. */
  newer = []
  selection = new Selection(this)
  // counts the changes of the filters: responses for earlier filters are dropped
  #question = 0
  #answered = 0

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
    return Object.keys(NO_FILTERS).some((name) => this.query.get(name))
  }

  open() {
    this.reload()
    this.loadResources()
  }

  /** Shows the newest matching imports and keeps them up to date. The shown ones stay until they are loaded. */
  reload() {
    const question = ++this.#question
    this.poll(() => (question === this.#question ? this.load(question) : null))
    this.update()
  }

  /** Loads the newest page and merges it with the shown jobs. Returns the seconds until the next load. */
  async load(question = this.#question) {
    const page = await this.loadPage({ counts: true })
    if (question !== this.#question) return null
    this.counts = page.counts
    if (this.#answered === question && this.jobs.length) {
      await this.#merge(page)
      if (question !== this.#question) return null
    } else {
      this.jobs = page.imports
      this.cursor = page.next_cursor
      this.newer = []
      this.#answered = question
    }
    this.selection.renew(this.jobs)
    return [...this.jobs, ...this.newer].some((job) => !isFinal(job)) ? 2 : 15
  }

  async #merge(page) {
    const found = new Map(page.imports.map((job) => [job.id, job]))
    const oldest = page.next_cursor ? page.imports.at(-1).id : ""
    // jobs as new as this page but not on it were deleted or no longer match
    const isKept = ({ id }) => found.has(id) || id < oldest
    this.selection.drop(this.jobs.filter((job) => !isKept(job)))
    const kept = this.jobs.filter(isKept).map((job) => found.get(job.id) ?? job)
    const renewed = await this.#renew(kept.filter((job) => !found.has(job.id) && !isFinal(job)).slice(0, RENEWED_MAX))
    this.jobs = kept.map((job) => renewed.get(job.id) ?? job)
    const known = new Set(this.jobs.map(({ id }) => id))
    this.newer = page.imports.filter(({ id }) => !known.has(id))
    if (!this.jobs.length) this.showNewer()
  }

  async #renew(jobs) {
    const renewed = new Map()
    for (const job of jobs) {
      try {
        renewed.set(job.id, await get(job.links.self, {}, this))
      } catch (error) {
        // deleted meanwhile: the next reload removes the row
        if (!(error instanceof Problem && error.status === 404)) throw error
      }
    }
    return renewed
  }

  /** @param {object} changes of the query of the address */
  filter(changes) {
    setQuery(changes)
    this.query = new URLSearchParams(location.search)
    this.selection.clear()
    this.reload()
  }

  #filterByName(name) {
    if (name !== (this.query.get("name") ?? "")) this.filter({ name })
  }

  showNewer() {
    this.jobs = [...this.newer, ...this.jobs].sort((a, b) => (a.id < b.id ? 1 : -1))
    this.newer = []
    this.update()
  }

  render() {
    return html`
      <div class="head">
        <h1>Imports</h1>
      </div>
      <nav class="tabs" aria-label="By state">
        ${TABS.map(
          (tab) =>
            html`<a
              href=${`/ui/imports${this.#queryWith({ status: tab.name })}`}
              aria-current=${tab === this.tab ? "page" : nothing}
              @click=${(event) => {
                if (event.button || event.metaKey || event.ctrlKey || event.shiftKey) return
                event.preventDefault()
                this.filter({ status: tab.name })
              }}
              >${tab.label}
              ${this.counts ? html`<span class="count">${format.number(tab.count(this.counts))}</span>` : nothing}</a
            >`,
        )}
      </nav>
      ${this.#filterBar()} ${this.jobs ? stale(this) : nothing}
      ${this.jobs === null ? (this.problem ? failure(this.problem) : loading()) : this.#list()}
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
    const select = (name, label, options) =>
      html`<select aria-label=${label} @change=${(event) => this.filter({ [name]: event.target.value })}>
        ${options.map(
          ([value, text]) => html`<option value=${value} ?selected=${(this.query.get(name) ?? "") === value}>${text}</option>`,
        )}
      </select>`
    return html`<div class="filters" role="search">
      <input
        type="search"
        data-filter
        placeholder="File name"
        aria-label="Part of the file name"
        maxlength="255"
        .value=${this.query.get("name") ?? ""}
        @change=${(event) => this.#filterByName(event.target.value.trim())}
        @input=${(event) => event.target.value === "" && this.#filterByName("")}
      />
      ${select("resource", "Resource", [["", "All resources"], ...this.resources.map((name) => [name, name])])}
      ${select("within", "Time", [["", "Any time"], ...Object.keys(WITHIN).map((name) => [name, `Last ${name}`])])}
      ${select("dry_run", "Kind", [
        ["", "Real and dry runs"],
        ["false", "Real imports"],
        ["true", "Dry runs"],
      ])}
      ${
        this.isFiltered
          ? html`<button type="button" class="quiet" @click=${() => this.filter(NO_FILTERS)}>${icon("close")} Clear</button>`
          : nothing
      }
    </div>`
  }

  #list() {
    const bar = this.selection.isShown ? this.selection.render(this.counts ? this.tab.count(this.counts) : null) : nothing
    if (!this.jobs.length) {
      return html`<div class="card flush">${bar} ${this.isFiltered || this.tab !== TABS[0] ? this.#noMatch() : this.#noImports()}</div>`
    }
    const areAllSelected = this.jobs.every((job) => this.selection.has(job))
    return html`
      ${
        this.newer.length
          ? html`<p class="row center-row newer">
              <button type="button" @click=${() => this.showNewer()}>
                Show ${format.count(this.newer.length, "new import")}
              </button>
            </p>`
          : nothing
      }
      <div class="card flush" aria-busy=${this.#answered === this.#question ? "false" : "true"}>
        ${bar}
        <table class="cards">
          <caption class="offscreen">
            Imports, newest first
          </caption>
          <thead>
            <tr>
              <th scope="col" data-changes>
                <input
                  type="checkbox"
                  aria-label="Select all that are shown"
                  .checked=${areAllSelected}
                  @click=${(event) => this.selection.toggleShown(event.target.checked)}
                />
              </th>
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
              (job) => row(job, this),
            )}
          </tbody>
        </table>
      </div>
      ${this.moreButton()}
    `
  }

  #noMatch() {
    return empty(
      "No import matches",
      "None of the imports that are kept has this state and these properties.",
      html`<button type="button" @click=${() => this.filter({ ...NO_FILTERS, status: "" })}>Show all imports</button>`,
    )
  }

  #noImports() {
    return empty(
      "No imports yet",
      "Drop a file anywhere on this page, choose one, or post it from a terminal.",
      html`<p><a class="button primary" href="/ui/new">${icon("upload")} Choose a file</a></p>
        ${command(`curl -F resource=users -F file=@users.csv ${location.origin}${this.path}`)}`,
    )
  }
}
