// Sends the mended records as a repair, waits for it, and shows those that are refused again; commits a dry run and its repairs.

import { html, nothing } from "../vendor/lit-html/lit-html.js"
import { asCurl, download, Problem } from "../client.js"
import { commitNotice, storedNotice } from "./dry_run.js"
import * as format from "../format.js"
import { ask, command, curl, failure, icon, toast } from "../parts.js"
import * as repair from "./repair.js"

export class Sending {
  /** The running action: `{label, done, total}`; null if there is none. */
  progress = null
  problem = null
  /** Whether the file that the rules make is larger than a page can hold. */
  isTooLarge = false
  #stop = null

  constructor(page) {
    this.page = page
  }

  get isBusy() {
    return this.progress !== null
  }

  /** Whether rules may change records that are not loaded. */
  get #mustGather() {
    return !this.page.isWhole && this.page.edits.rules.some(({ kind }) => kind !== "drop")
  }

  /** The mended form of a loaded record that can be sent; null for one that is unchanged, left out, or has an open quote. */
  #finished(record) {
    return this.#sendable({ mended: this.page.edits.mended(record), state: this.page.edits.stateOf(record) })
  }

  #sendable({ mended, state }) {
    if (state !== "edited") return null
    return mended.cells === null && repair.fault(mended.raw, this.page.job, mended.columns) ? null : mended
  }

  /**
   * The records to send: loaded ones that are ready, by key in the order of the first file. Several elements of a JSON array may
   * start on one line, and are distinguished only by their order: then those that are not ready are sent unchanged, and are
   * refused again. If that is not possible, no record of the line is sent.
   */
  #ready() {
    const { page } = this
    const loaded = [...page.loaded()].sort(
      (one, other) => one.line - other.line || one.job.localeCompare(other.job) || one.record - other.record,
    )
    const ready = new Map(loaded.map((record) => [record.key, this.#finished(record)]).filter(([, mended]) => mended))
    if (page.job.format !== "json") return ready
    const lines = new Map()
    for (const record of loaded) lines.set(record.line, [...(lines.get(record.line) ?? []), record])
    for (const records of lines.values()) {
      if (records.length === 1 || !records.some(({ key }) => ready.has(key))) continue
      const isSent = page.isWhole && records.every((record) => ready.has(record.key) || record.cells !== null)
      for (const record of records) {
        if (!isSent) ready.delete(record.key)
        else if (!ready.has(record.key)) ready.set(record.key, record)
      }
    }
    const keys = loaded.map(({ key }) => key).filter((key) => ready.has(key))
    return new Map(keys.map((key) => [key, ready.get(key)]))
  }

  buttons() {
    const { page } = this
    if (!page.sources.length && !this.isBusy) return nothing
    const count = this.#ready().size
    const verb = page.job.dry_run ? "Check" : "Send"
    return html`
      <button type="button" ?disabled=${!page.edits.canUndo || this.isBusy} @click=${() => page.undo()}>
        ${icon("retry")} Undo
      </button>
      <button
        type="button"
        class="primary"
        data-changes
        ?disabled=${this.isBusy || (!count && !this.#mustGather)}
        @click=${() => this.send()}
      >
        ${icon("upload")}
        ${this.progress?.label ?? `${verb} ${this.#mustGather ? "all that the rules mend" : format.count(count, "record")}`}
      </button>
    `
  }

  render(counts) {
    const ready = this.#ready()
    const others = this.page.job.format === "json" ? ", and the other records of the same line" : ""
    const blocked = [...this.page.loaded()].filter(
      (record) => this.page.edits.stateOf(record) === "edited" && !ready.has(record.key),
    ).length
    return html`
      ${
        this.progress
          ? html`<div class="row">
              <label class="grow"
                >${this.progress.label}
                <progress max=${this.progress.total || 1} value=${this.progress.total ? this.progress.done : nothing}></progress
              ></label>
              ${
                this.#stop
                  ? html`<button type="button" @click=${() => this.#stop.abort()}>${icon("stop")} Stop</button>`
                  : nothing
              }
            </div>`
          : nothing
      }
      ${this.problem ? this.#failed() : nothing} ${this.isTooLarge ? this.#tooLarge() : nothing}
      ${
        blocked > 0 && !this.isBusy
          ? html`<p class="muted small">
              ${format.count(blocked, "edited record")} cannot be sent yet: see the
              ${blocked === 1 ? "message below it" : "messages below them"}${others}.
            </p>`
          : nothing
      }
      ${this.#end(counts)}
    `
  }

  #failed() {
    const isKnown = this.problem.type === "already-repaired"
    if (!isKnown) return failure(this.problem, () => this.send())
    return html`${failure(this.problem)}
      <p><button type="button" @click=${() => this.#reload()}>${icon("retry")} Load what is still refused</button></p>`
  }

  async #reload() {
    const { page } = this
    const { lines } = this.problem
    this.problem = null
    await page.reload()
    // if not all refused records can be loaded, only the problem says which are taken
    page.edits.keep((key, { line }) => page.known.has(key) || !lines.includes(line))
    page.update()
  }

  #tooLarge() {
    const { job } = this.page
    return html`<div class="notice warn">
      ${icon("alert")}
      <div>
        <strong>The mended records are more than ${format.bytes(repair.LIMITS.fileBytes)}, too much for a page.</strong>
        <p>Mend the annotated file with a program of your own and post it as a repair, or correct the records in an editor:</p>
        <p><button type="button" @click=${() => this.#download()}>${icon("download")} Download the annotated records</button></p>
        ${command(`bulk fix ${job.id}`)}
        ${curl(asCurl("POST", `${repair.PATH}?repairs=${job.id}`, { file: "mended.csv", type: "text/csv" }))}
      </div>
    </div>`
  }

  async #download() {
    try {
      await download(`${this.page.job.links.failed_records}?annotate=true`)
    } catch (problem) {
      toast(problem.message, "bad")
    }
  }

  /** The next action if there are no records to send. */
  #end(counts) {
    const { job } = this.page
    if (this.isBusy) return nothing
    const commits = this.page.family.map(({ commit }) => commit).filter(Boolean)
    if (commits.length) return storedNotice(this.page, commits, () => this.store())
    if (job.dry_run && counts.taken && !counts.edited) return commitNotice(this.page, counts, () => this.store())
    if (counts.untouched || counts.edited) return nothing
    return html`<div class="notice good">
      ${icon("check")}
      <div>
        <strong>${counts.out ? "All other records are stored." : "All records are stored."}</strong>
        <p>
          ${format.count(counts.taken, "record")} of ${format.number(counts.refused)} were
          taken${counts.out ? `, ${format.number(counts.out)} left out` : ""}.
        </p>
        <p><a class="button" href=${`/ui/imports/${job.id}`}>Go to the import</a></p>
      </div>
    </div>`
  }

  // Sending

  /** Runs `action(signal)` with a progress bar and a stop button, and shows its problem if it fails. */
  async #run(label, action) {
    this.problem = null
    this.isTooLarge = false
    this.#stop = new AbortController()
    const signal = AbortSignal.any([this.#stop.signal, this.page.signal])
    this.#show(label, 0, 0)
    try {
      return await action(signal)
    } catch (error) {
      if (error.name === "AbortError") return undefined
      if (!(error instanceof Problem)) throw error
      this.problem = error
      return undefined
    } finally {
      this.progress = null
      this.#stop = null
      this.page.update()
    }
  }

  #show(label, done, total) {
    this.progress = { label, done, total }
    this.page.update()
  }

  async send() {
    const { page } = this
    if (this.isBusy) return
    const file = new repair.RepairFile(page.job)
    const ready = this.#ready()
    if (!this.#mustGather) file.add([...ready.values()])
    else {
      const isWhole = await this.#run("Applying the rules", (signal) => this.#gather(file, signal))
      if (!isWhole) return
      if (!file.records) return toast("The rules change no record", "bad")
      if (!(await this.#confirm(file))) return
    }
    // a record that was only gathered has no edits
    const keys = new Set(ready.keys())
    await this.#run("Sending", async (signal) => {
      const child = await this.#post(file, signal)
      page.edits.sent(keys)
      await page.reload()
      this.#report(child)
    })
    page.focusFirst()
  }

  /** Applies the rules to all refused records, page by page. False when they make too large a file. */
  async #gather(file, signal) {
    const { page } = this
    const { counts } = page
    const lines = new Set()
    let done = 0
    for await (const records of repair.allRefused(page.sources, page.fields, { signal })) {
      file.add(records.map((record) => this.#sendable(page.edits.judge(record))).filter(Boolean))
      done += records.length
      for (const { line } of records) lines.add(line)
      if (lines.size < done)
        throw new Problem(-1, {
          title: "Several records start on one line",
          detail: "So many of them can only be mended with a program or an editor.",
        })
      this.#show(`Applying the rules: ${format.count(file.records, "record")} mended`, done, counts.refused - counts.taken)
      if (file.size > repair.LIMITS.fileBytes) {
        this.isTooLarge = true
        return false
      }
    }
    return true
  }

  #confirm(file) {
    const verb = this.page.job.dry_run ? "Check" : "Send"
    return ask({
      heading: `${verb} ${format.count(file.records, "record")}?`,
      text: `The rules and edits make a file of ${format.bytes(file.size)}.`,
      confirmLabel: `${verb} ${format.count(file.records, "record")}`,
    })
  }

  async #post(file, signal) {
    const key = this.page.edits.idempotencyKey
    const onprogress = (sent, total) => this.#show(`Sending ${format.count(file.records, "record")}`, sent, total)
    const onpause = (problem, seconds) => this.#show(`${problem.message} Next attempt in ${format.duration(seconds)}`, 0, 0)
    const child = await repair.patiently(() => repair.sendRepair(this.page.job, file, { key, onprogress, signal }), {
      signal,
      onpause,
    })
    // sent records cannot be stopped any more
    this.#stop = null
    return repair.settled(child.id, {
      signal: this.page.signal,
      onprogress: (job) => this.#show(...progressOf(job, "Checking the records")),
    })
  }

  #report(child) {
    const { created, updated, unchanged, skipped, failed, unprocessed } = child.counts
    const taken = created + updated + unchanged + skipped
    const again = failed ? `, ${format.number(failed)} refused again` : ""
    const never = unprocessed ? `, ${format.number(unprocessed)} not processed` : ""
    const text = `${format.count(taken, "record")} taken${again}${never}`
    toast(text, failed || unprocessed ? "bad" : "good")
    this.page.announce(text)
  }

  // A dry run: its records and those of its repairs are stored by commits

  /** Commits the dry run, then its repairs in their order. Repeated, it finds the same imports. */
  async store() {
    const { page } = this
    await this.#run("Storing", async (signal) => {
      this.#stop = null
      for (const { job } of page.family) {
        const label = job === page.job ? "Storing the records of the file" : "Storing the mended records"
        await repair.commit(job, { signal, onprogress: (child) => this.#show(...progressOf(child, label)) })
      }
      await page.reload()
      page.announce("The records are stored")
    })
    page.focusFirst()
  }
}

const progressOf = (job, label) => [label, job.processed_records, job.total_records]
