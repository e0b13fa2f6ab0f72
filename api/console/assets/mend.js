// Corrects the refused records of an import, in a grid and by rules for whole columns, and sends them as a repair.

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js"
import { get } from "./client.js"
import { causes } from "./mend/causes.js"
import { Edits } from "./mend/edits.js"
import * as format from "./format.js"
import { Grid } from "./mend/grid.js"
import { KEYS } from "./mend/grid_keys.js"
import { Page } from "./page.js"
import { empty, failure, icon, isFinal, loading, toast } from "./parts.js"
import * as repair from "./mend/repair.js"
import { leaving, setQuery } from "./router.js"
import { RuleList } from "./mend/rule_list.js"
import { Sending } from "./mend/sending.js"

const ROWS = 100

export default class MendPage extends Page {
  /** The import whose records were refused, and all imports derived from it, oldest first: `repair.familyOf`. */
  job = null
  family = []
  fields = []
  /** The shown records, and all loaded ones by key. `isWhole`: all refused records are loaded. */
  rows = []
  known = new Map()
  isWhole = false
  isLoading = true
  /** The number of records that match the filter, and the positions of the shown ones and of the next ones. */
  total = 0
  #places = [{ source: 0, cursor: null }]
  #next = null
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

  /** The imports whose refused records are shown: the last repair first, since its records were edited last. */
  get sources() {
    return this.family
      .filter(({ job, isContinued }) => job.counts.failed && !isContinued)
      .map(({ job }) => job)
      .reverse()
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
    await this.attempt(async () => {
      const job = await get(`${repair.PATH}/${this.params.id}`, {}, this)
      this.fields = (await get(`/api/v1/resources/${job.resource}`, {}, this)).fields
      this.family = await repair.familyOf(job, this)
      this.job = job
      this.isWhole = false
      this.known = new Map()
      await this.#show([{ source: 0, cursor: null }])
      this.isLoading = false
    })
    if (!this.problem && !this.signal.aborted) await this.#loadAll()
  }

  /** Loads all refused records, up to what can be edited by hand, so that numbers are exact and rules need no further request. */
  async #loadAll() {
    if (this.counts.refused - this.counts.taken > repair.LIMITS.records) return
    let size = 0
    await this.attempt(async () => {
      for await (const records of repair.allRefused(this.sources, this.fields, this)) {
        this.#know(records)
        size += JSON.stringify(records).length
        if (size > repair.LIMITS.bytes) return
      }
      this.isWhole = true
      // records that another tab has sent meanwhile
      this.edits.keep((key) => this.known.has(key))
    })
  }

  #know(records) {
    for (const record of records) if (!this.known.has(record.key)) this.known.set(record.key, record)
  }

  /** Shows the records from the last of these positions on. */
  async #show(places) {
    const rows = []
    const { code, field } = this
    let { source, cursor } = places.at(-1)
    let total = 0
    for (; source < this.sources.length && rows.length < ROWS; source += cursor ? 0 : 1) {
      const query = { code, field, cursor, limit: ROWS - rows.length, signal: this.signal }
      const page = await repair.refusedPage(this.sources[source], this.fields, query)
      if (cursor === null) total += page.total
      rows.push(...page.records)
      cursor = page.cursor
    }
    if (places.length === 1) {
      for (const job of this.sources.slice(source + (cursor ? 1 : 0)))
        total += (await repair.refusedPage(job, this.fields, { code, field, limit: 1, signal: this.signal })).total
      this.total = total
    }
    // memory of the page does not grow with the import
    if (!this.isWhole && this.known.size > repair.LIMITS.records) this.known.clear()
    this.#know(rows)
    this.rows = rows.map(({ key }) => this.known.get(key))
    this.#places = places
    this.#next = source < this.sources.length ? { source, cursor } : null
  }

  turn(places) {
    return this.attempt(async () => {
      await this.#show(places)
      document.querySelector(".mend-grid-scroll")?.scrollTo(0, 0)
    })
  }

  filter(code, field) {
    setQuery({ code, field })
    this.query = new URLSearchParams(location.search)
    return this.turn([{ source: 0, cursor: null }])
  }

  /** The numbers of the bar; they add up to `refused`. */
  get counts() {
    if (!this.job) return { refused: 0, taken: 0, edited: 0, out: 0, untouched: 0 }
    const refused = this.job.counts.failed
    const taken = this.repairs.reduce(
      (sum, { counts }) => sum + counts.created + counts.updated + counts.unchanged + counts.skipped,
      0,
    )
    let edited = 0
    let out = 0
    for (const record of this.loaded()) {
      const state = this.edits.stateOf(record)
      if (state === "edited") edited += 1
      else if (state === "out") out += 1
    }
    return { refused, taken, edited, out, untouched: refused - taken - edited - out }
  }

  /** All records whose cells are known: the loaded ones, and those with edits from before a reload. */
  *loaded() {
    yield* this.known.values()
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

const PARTS = [
  ["taken", "taken", "created"],
  ["edited", "edited", "updated"],
  ["out", "left out", "skipped"],
  ["untouched", "untouched", "refused"],
]

/** The numbers of refused, accepted, edited and untouched records, as a bar and as text. */
function bar(counts) {
  let x = 0
  const parts = PARTS.filter(([name]) => counts[name] > 0).map(([name, , css]) => {
    const width = Math.max((1000 * counts[name]) / counts.refused, 3)
    const part = svg`<rect class="fate ${css}" x=${x} y="0" width=${width} height="10"></rect>`
    x += width
    return part
  })
  return html`<svg class="fates tall" viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">${parts}</svg>
    <ul class="legend">
      <li><b>${format.number(counts.refused)}</b> refused</li>
      ${PARTS.filter(([name]) => name !== "out" || counts.out).map(
        ([name, label, css]) =>
          html`<li><span class="swatch ${css}" aria-hidden="true"></span><b>${format.number(counts[name])}</b> ${label}</li>`,
      )}
    </ul>`
}
