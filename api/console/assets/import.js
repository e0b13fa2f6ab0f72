// One import: its progress, the outcome of its records, where and why records were refused, and the next actions.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { events, get, Problem, send } from "./client.js"
import { ErrorList } from "./errors.js"
import { family, loadFamily } from "./family.js"
import { fileMap } from "./filemap.js"
import * as format from "./format.js"
import { actions, downloads, facts, headline, notices, repaired, tiles, undone } from "./import_parts.js"
import { nameOf } from "./job_actions.js"
import { Page, updates } from "./page.js"
import { failure, fates, isFinal, legend, loading, stale, state, time } from "./parts.js"
import { plot, stretches } from "./plot.js"

const BINS = 120
// after this many broken streams the page polls instead
const BREAKS_MAX = 2

export default class ImportPage extends Page {
  /** The import; null until it is loaded. */
  job = null
  timeline = null
  relatives = []
  errors = new ErrorList(this)
  #etag = null
  #stream = null
  #breaks = 0
  #announced = 0

  get path() {
    return `/api/v1/imports/${encodeURIComponent(this.params.id)}`
  }

  get title() {
    if (!this.job) return "Import"
    return isFinal(this.job) ? nameOf(this.job) : `${Math.floor(this.job.progress.percent)} % · ${nameOf(this.job)}`
  }

  open() {
    this.poll(() => this.load())
    // a browser has six connections to a host: hidden pages hold none
    const rest = () => (document.hidden || updates.paused) && this.#stream?.abort()
    document.addEventListener("visibilitychange", rest, { signal: this.signal })
    addEventListener("bulk:updates", rest, { signal: this.signal })
  }

  /** Loads the whole state, and opens the stream of events. Returns the seconds until the next load. */
  async load() {
    const headers = this.#etag ? { "If-None-Match": this.#etag } : {}
    const response = await send("GET", this.path, { signal: this.signal, headers })
    if (response.status !== 304) {
      const job = await response.json()
      this.timeline = await get(job.links.timeline, { bins: BINS }, this)
      await this.errors.load(job)
      if (this.relatives.length === 0 || isFinal(job)) this.relatives = await loadFamily(job, this)
      this.#etag = response.headers.get("ETag")
      this.#take(job)
    }
    if (isFinal(this.job)) return this.job.undo?.status === "running" ? 1 : null
    if (this.#breaks < BREAKS_MAX) this.#follow()
    return this.#stream ? 2 : 1
  }

  /** Events have the counts twice a second; errors, plot and map come with the next load. */
  async #follow() {
    if (this.#stream) return
    this.#stream = new AbortController()
    const signal = AbortSignal.any([this.signal, this.#stream.signal])
    try {
      for await (const { data } of events(`${this.path}/events`, { signal })) {
        this.#take(data)
        this.update()
      }
      // without `done` the server process is stopping
      if (!isFinal(this.job)) this.#breaks += 1
    } catch (error) {
      if (error.name === "AbortError") return
      if (!(error instanceof Problem)) throw error
      this.#breaks += 1
    } finally {
      this.#stream = null
    }
    if (isFinal(this.job)) await this.attempt(() => this.load())
  }

  /** Shows a state from the stream or a poll. From one older than the shown state only the members that the stream lacks. */
  #take(job) {
    const known = this.job
    if (known && (isFinal(known) > isFinal(job) || known.processed_records > job.processed_records)) {
      const { error_summary, error_kinds } = job
      if (!isFinal(known) && error_summary) this.job = { ...known, error_summary, error_kinds }
      return
    }
    this.job = { ...known, waiting_for: known?.status === job.status ? known.waiting_for : null, ...job }
    if (known) this.#announceMilestone()
    this.#announced = quarterOf(this.job)
  }

  /** Announces each quarter and the end, but nothing that had happened before the page was opened. */
  #announceMilestone() {
    const quarter = quarterOf(this.job)
    if (quarter <= this.#announced) return
    this.announce(quarter === 4 ? `${headline(this.job)}.` : `${quarter * 25} % are done.`)
  }

  render() {
    if (this.problem?.status === 404) return gone()
    if (!this.job) return this.problem ? failure(this.problem) : loading()
    const job = this.job
    const refused = job.error_summary?.length > 0
    const others = [downloads(job), this.relatives.length > 1 ? family(this.#renewed(), job) : nothing].filter(
      (part) => part !== nothing,
    )
    return html`
      <p class="crumb"><a href="/ui/imports">Imports</a></p>
      <div class="head one">
        <h1>${nameOf(job)}</h1>
        ${state(job)} ${job.dry_run ? html`<span class="chip plain">dry run</span>` : nothing}
        <div class="row actions">${actions(job, this)}</div>
        <p class="sub">
          ${job.resource} · ${job.mode} · ${job.format.toUpperCase()}, ${format.bytes(job.file.bytes)} ·
          ${time(job.created_at)}${job.created_by ? html` by ${job.created_by}` : nothing}
        </p>
      </div>
      <div class="stack">
        ${stale(this)} ${notices(job)} ${undone(job)}
        <section class="card" aria-labelledby="progress-heading">
          <header>
            <h2 id="progress-heading">${headline(job)}</h2>
            ${
              job.status === "pending" || (isFinal(job) && !job.counts.unprocessed)
                ? nothing
                : html`<b class="percent">${format.percent(job.processed_records, job.total_records)}</b>`
            }
          </header>
          ${fates(job, { tall: true })} ${legend(job)} ${this.#because(job)} ${repaired(job)} ${tiles(job, this.#stretches())}
        </section>
        ${this.#pictures()} ${refused ? this.errors.causes(job) : nothing}
        ${
          refused
            ? html`<div class="columns">
                ${this.errors.list()}
                <div class="stack">${others} ${facts(job, { isWide: false })}</div>
              </div>`
            : html`${others.length ? html`<div class="halves">${others}</div>` : nothing} ${facts(job, { isWide: true })}`
        }
      </div>
    `
  }

  #because(job) {
    if (!job.waiting_for) return nothing
    return html`<p class="because muted">
      ${job.waiting_for[0].toUpperCase()}${job.waiting_for.slice(1)}.
      ${job.after && job.status === "pending" ? html`<a href=${`/ui/imports/${job.after}`}>Open that import</a>` : nothing}
    </p>`
  }

  #stretches() {
    const { job, timeline } = this
    return stretches(timeline?.seconds ?? [], { bins: BINS, startedAt: job.started_at, isFinal: isFinal(job) })
  }

  #pictures() {
    // with fewer parts they show no more than the bar
    const shown = this.#stretches()
    const parts = [
      ...(shown.length > 2 ? [this.#throughput(shown)] : []),
      ...(this.timeline?.file.length > 1 ? [this.#map()] : []),
    ]
    return parts.length ? html`<div class="halves even">${parts}</div>` : nothing
  }

  #throughput(shown) {
    return html`<section class="card" aria-labelledby="plot-heading">
      <h2 id="plot-heading">Records per second</h2>
      ${plot(shown)}
    </section>`
  }

  #map() {
    const { job, timeline } = this
    return html`<section class="card" aria-labelledby="map-heading">
      <h2 id="map-heading">Where in the file</h2>
      ${fileMap(timeline.file, {
        total: job.total_records,
        refused: isFinal(job) ? job.counts.failed : null,
        chosen: Number(this.query.get("record")) || null,
        choose: (record) => this.errors.choose({ record }),
      })}
    </section>`
  }

  /** The family with the newest state of this import. */
  #renewed() {
    return this.relatives.map((each) => (each.id === this.job.id ? this.job : each))
  }
}

/** 4 only when the import is final. */
const quarterOf = (job) => (isFinal(job) ? 4 : Math.min(3, Math.floor(job.progress.percent / 25)))

function gone() {
  return html`<div class="empty">
    <h1>No such import</h1>
    <p>
      It was deleted, or it has expired: final imports are deleted after <code>JOB_RETENTION_SECONDS</code>, by default 7 days.
      The records that it stored are kept.
    </p>
    <a class="button" href="/ui/imports">Go to the imports</a>
  </div>`
}
