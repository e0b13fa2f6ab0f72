// Corrects the refused records of an import, in a grid and by rules for whole columns, and sends them as a repair.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { get } from "./client.js"
import { causes } from "./mend/causes.js"
import { Edits } from "./mend/edits.js"
import * as format from "./format.js"
import { Grid } from "./mend/grid.js"
import { KEYS } from "./mend/grid_keys.js"
import { bar, numbers } from "./mend/numbers.js"
import { Page } from "./page.js"
import { empty, failure, icon, isFinal, loading, toast } from "./parts.js"
import * as repair from "./mend/repair.js"
import { leaving, setQuery } from "./router.js"
import { RuleList } from "./mend/rule_list.js"
import { Sending } from "./mend/sending.js"

const ROWS = 100
const FIRST = [{ source: 0, cursor: null }]

export default class MendPage extends Page {
  /** The import whose records were refused, and all imports derived from it, oldest first: `repair.familyOf`. */
  job = null
  family = []
  fields = []
  /**
   * The shown records, and all loaded ones by key. `isWhole`: all refused records are loaded; `isPartial`: they are too many for
   * that. Neither is true while they are being loaded.
   */
  rows = []
  known = new Map()
  isWhole = false
  isPartial = false
  isLoading = true
  /** The number of records that match the filter, and the positions of the shown ones and of the next ones. */
  total = 0
  #places = FIRST
  #next = null
  // a reload aborts an earlier one with all that it still loads, and a turn of the page; a turn aborts an earlier turn
  #loading = new AbortController()
  #turning = new AbortController()
  #reloaded = null
  edits = new Edits(this.params.id)
  grid = new Grid(this)
  ruleList = new RuleList(this)
  sending = new Sending(this)

  get title() {
    return this.job ? `Mend ${this.job.file.name ?? this.job.resource}` : "Mend"
  }

  get code() {
    return this.query.get("code")
  }

  get field() {
    return this.query.get("field")
  }

  get repairs() {
    return this.family.slice(1).map(({ job }) => job)
  }

  get sources() {
    return sourcesOf(this.family)
  }

  open() {
    leaving.question = () =>
      this.counts.edited ? "Leave the page? The edits are kept in this tab, but nothing has been sent." : null
    addEventListener("beforeunload", (event) => this.counts.edited && event.preventDefault(), { signal: this.signal })
    addEventListener("pagehide", () => this.edits.save(), { signal: this.signal })
    addEventListener("keydown", (event) => this.#keydown(event), { signal: this.signal })
    this.reload()
  }

  close() {
    this.edits.save()
    super.close()
  }

  /** Reloads the import and its repairs, the shown records, and, if there are few, all others. */
  async reload() {
    this.#turning.abort()
    this.#loading.abort()
    this.#loading = new AbortController()
    const signal = AbortSignal.any([this.signal, this.#loading.signal])
    const reloaded = this.attempt(async () => {
      const job = await get(`${repair.PATH}/${this.params.id}`, {}, { signal })
      const { fields } = await get(`/api/v1/resources/${job.resource}`, {}, { signal })
      const family = await repair.familyOf(job, { signal })
      const page = await this.#read(FIRST, { family, fields, signal })
      // all at once: records that were read before the family may be taken by one of its imports
      Object.assign(this, { job, fields, family, known: new Map(), isWhole: false, isPartial: false, isLoading: false })
      this.#show(page)
      return true
    })
    this.#reloaded = reloaded
    const isLoaded = await reloaded
    if (this.#reloaded === reloaded) this.#reloaded = null
    if (isLoaded) await this.#loadAll(signal)
  }

  /** Loads all refused records, up to what can be edited by hand, so that numbers are exact and rules need no further request. */
  async #loadAll(signal) {
    await this.attempt(async () => {
      let size = 0
      this.isPartial = this.counts.refused - this.counts.taken > repair.LIMITS.records
      if (this.isPartial) return
      for await (const records of repair.allRefused(this.sources, this.fields, { signal })) {
        this.#know(records)
        size += JSON.stringify(records).length
        this.isPartial = size > repair.LIMITS.bytes
        if (this.isPartial) return
      }
      this.isWhole = true
      // records that another tab has sent meanwhile
      this.edits.keep((key) => this.known.has(key))
    })
  }

  #know(records) {
    for (const record of records) if (!this.known.has(record.key)) this.known.set(record.key, record)
  }

  /** The records from the last of these positions on, their number if it is the first position, and the position behind them. */
  async #read(places, { family, fields, signal }) {
    const rows = []
    const { code, field } = this
    const sources = sourcesOf(family)
    let { source, cursor } = places.at(-1)
    let total = 0
    for (; source < sources.length && rows.length < ROWS; source += cursor ? 0 : 1) {
      const query = { code, field, cursor, limit: ROWS - rows.length, signal }
      const page = await repair.refusedPage(sources[source], fields, query)
      if (cursor === null) total += page.total
      rows.push(...page.records)
      cursor = page.cursor
    }
    if (places.length === 1)
      for (const job of sources.slice(source + (cursor ? 1 : 0)))
        total += (await repair.refusedPage(job, fields, { code, field, limit: 1, signal })).total
    return { places, rows, total, next: source < sources.length ? { source, cursor } : null }
  }

  #show({ places, rows, total, next }) {
    if (places.length === 1) this.total = total
    // memory of the page does not grow with the import
    if (!this.isWhole && this.known.size > repair.LIMITS.records) this.known.clear()
    this.#know(rows)
    this.rows = rows.map(({ key }) => this.known.get(key))
    this.#places = places
    this.#next = next
  }

  turn(places) {
    this.#turning.abort()
    this.#turning = new AbortController()
    const signal = AbortSignal.any([this.signal, this.#turning.signal])
    return this.attempt(async () => {
      // a turn during a reload waits for it
      const isReloaded = await this.#reloaded
      signal.throwIfAborted()
      // and positions from before it are not valid any more
      this.#show(await this.#read(isReloaded ? FIRST : places, { family: this.family, fields: this.fields, signal }))
      document.querySelector(".mend-grid-scroll")?.scrollTo(0, 0)
    })
  }

  filter(code, field) {
    setQuery({ code, field })
    this.query = new URLSearchParams(location.search)
    return this.turn(FIRST)
  }

  get counts() {
    return numbers(this)
  }

  /** The loaded records, and the edited ones of `unseen`. */
  *loaded() {
    yield* this.known.values()
    yield* this.unseen()
  }

  /**
   * Records with edits from before a reload that are not loaded, if not all can be. If all can be, none: a record that is not
   * loaded then is taken, and its edits do not count.
   */
  *unseen() {
    if (!this.isPartial) return
    for (const [key, { record }] of this.edits.hand) if (!this.known.has(key)) yield record
  }

  undo() {
    const where = this.edits.undo()
    this.update()
    if (where) this.grid.focusRecord(where.key, where.column)
  }

  /** Restores the focus after records were sent, since the button may have been removed. */
  focusFirst() {
    if (document.activeElement !== document.body) return
    const heading = document.querySelector("main h1")
    heading?.setAttribute("tabindex", "-1")
    heading?.focus({ preventScroll: true })
  }

  tooMany() {
    const most = `${format.number(repair.LIMITS.records)} records, or ${format.bytes(repair.LIMITS.bytes)}`
    toast(`At most ${most}, can be edited before they are sent.`, "bad")
  }

  #keydown(event) {
    if (event.key.toLowerCase() !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return
    const target = event.target
    // a field outside of the grid has the browser's undo
    if (/^(INPUT|TEXTAREA)$/.test(target.tagName) && target.dataset.row === undefined) return
    event.preventDefault()
    this.undo()
  }

  // Templates

  render() {
    this.grid.begin()
    if (!this.job || this.isLoading)
      return this.problem ? failure(this.problem, () => this.reload()) : loading("Loading the refused records")
    const { job } = this
    const name = job.file.name ?? job.resource
    return html`
      <div class="head">
        <h1>Mend ${name}</h1>
        ${this.sending.buttons()}
        <p class="sub">
          Refused records of <a href=${`/ui/imports/${job.id}`}>${job.dry_run ? "the dry run" : "the import"}</a>, resource
          ${job.resource}, mode ${job.mode}. Mended records are sent as a repair of it; lines are those of the first file.
        </p>
      </div>
      ${this.#body()}
    `
  }

  #body() {
    const { job } = this
    if (!isFinal(job))
      return html`<div class="card">
        ${empty(
          "The import is still running",
          "Its refused records can be mended when it has ended.",
          html`<p><button type="button" @click=${() => this.reload()}>${icon("retry")} Look again</button></p>`,
        )}
      </div>`
    if (!job.counts.failed)
      return html`<div class="card">
        ${empty(
          "Nothing to mend",
          "No record of this import was refused.",
          html`<p><a class="button" href=${`/ui/imports/${job.id}`}>Go to the import</a></p>`,
        )}
      </div>`
    const { counts } = this
    return html`<div class="stack">
      ${this.problem ? failure(this.problem, () => this.reload()) : nothing}
      <section class="card mend-bar" aria-label="All refused records">${bar(counts)}${this.sending.render(counts)}</section>
      ${
        this.edits.isStored
          ? nothing
          : html`<div class="notice warn">
              ${icon("alert")}
              <div>There are more edits than this tab can keep: a reload loses them. Send them soon.</div>
            </div>`
      }
      ${
        this.#isDone(counts)
          ? nothing
          : html`<div class="mend">
              <div class="stack">${causes(this)}${this.ruleList.render()}${this.#help()}</div>
              <section class="card flush" aria-label="Refused records">${this.#records()}</section>
            </div>`
      }
    </div>`
  }

  /** Whether there is nothing to correct: all records were accepted, or belong to the imports that store a dry run. */
  #isDone(counts) {
    return (!counts.edited && !counts.untouched && !counts.out) || !this.sources.length
  }

  #records() {
    if (!this.rows.length) {
      return empty(
        "No record matches",
        "No record that is still refused has this error.",
        html`<p><button type="button" @click=${() => this.filter(null, null)}>Show all causes</button></p>`,
      )
    }
    const first = (this.#places.length - 1) * ROWS + 1
    return html`${this.grid.render()}
      <div class="pager row">
        <span class="muted"
          >${format.number(first)}–${format.number(first + this.rows.length - 1)} of ${format.number(this.total)}</span
        >
        ${
          this.#places.length > 1 || this.#next
            ? html`<span class="grow"></span>
                <button type="button" ?disabled=${this.#places.length === 1} @click=${() => this.turn(this.#places.slice(0, -1))}>
                  Previous
                </button>
                <button type="button" ?disabled=${!this.#next} @click=${() => this.turn([...this.#places, this.#next])}>
                  Next
                </button>`
            : nothing
        }
      </div>`
  }

  #help() {
    return html`<details class="card keys">
      <summary>Keys</summary>
      <table class="plain">
        <caption class="offscreen">
          Keys in the grid
        </caption>
        <tbody>
          ${KEYS.map(
            ([key, label]) =>
              html`<tr>
                <th scope="row"><kbd>${key}</kbd></th>
                <td>${label}</td>
              </tr>`,
          )}
        </tbody>
      </table>
    </details>`
  }
}

/** The imports whose refused records are shown: the last repair first, since its records were edited last. */
const sourcesOf = (family) =>
  family
    .filter(({ job, isContinued }) => job.counts.failed && !isContinued)
    .map(({ job }) => job)
    .reverse()
