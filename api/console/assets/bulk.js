// Actions on many imports: the selection, and one request after another, with a progress bar and a stop button.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { get, post, Problem, remove } from "./client.js"
import * as format from "./format.js"
import { nameOf } from "./job_actions.js"
import { ask, isFinal } from "./parts.js"

const PATH = "/api/v1/imports"
const FAILURES_SHOWN = 20

/** The label of an action, the imports that allow it, its effect on the data, and its request. */
const ACTIONS = {
  cancel: {
    label: "Cancel",
    done: "cancelled",
    fits: (job) => !isFinal(job),
    text: "What is stored stays.",
    call: (job, page) => post(job.links.cancel, undefined, page),
  },
  retry: {
    label: "Retry",
    done: "retried",
    fits: (job) => Boolean(job.links.retry),
    text: "Refused and left records are tried again.",
    call: (job, page) => post(job.links.retry, undefined, page),
  },
  delete: {
    label: "Delete",
    done: "deleted",
    fits: isFinal,
    text: "The files and errors are removed. The records that were stored stay.",
    call: (job, page) => remove(job.links.self, page),
  },
}

export class Selection {
  #page
  /** The selected jobs by id; they need not be shown. */
  #jobs = new Map()
  #last = null
  #isLoading = false
  #run = null

  /** @param {import("./page.js").Page & {jobs: object[], filters: object, reload: () => void}} page */
  constructor(page) {
    this.#page = page
  }

  get isShown() {
    return this.#jobs.size > 0 || this.#isLoading || this.#run !== null
  }

  has(job) {
    return this.#jobs.has(job.id)
  }

  clear() {
    this.#jobs.clear()
    this.#last = null
  }

  /** Updates the states of the selected jobs. */
  renew(jobs) {
    for (const job of jobs) if (this.#jobs.has(job.id)) this.#jobs.set(job.id, job)
  }

  /** Deselects deleted jobs. */
  drop(jobs) {
    for (const { id } of jobs) this.#jobs.delete(id)
  }

  /** A click on the checkbox of a row; with Shift all rows between it and the last one change too. */
  toggle(job, event) {
    const { jobs } = this.#page
    const from = jobs.findIndex(({ id }) => id === this.#last)
    const to = jobs.findIndex(({ id }) => id === job.id)
    const range = event.shiftKey && from >= 0 ? jobs.slice(Math.min(from, to), Math.max(from, to) + 1) : [job]
    for (const each of range) {
      if (event.target.checked) this.#jobs.set(each.id, each)
      else this.#jobs.delete(each.id)
    }
    this.#last = job.id
    this.#page.update()
  }

  toggleShown(isOn) {
    for (const job of this.#page.jobs) {
      if (isOn) this.#jobs.set(job.id, job)
      else this.#jobs.delete(job.id)
    }
    this.#page.update()
  }

  /** Selects all imports that match the filters, also those that are not shown. */
  async #selectAll() {
    this.#isLoading = true
    const { filters } = this.#page
    let cursor = null
    await this.#page.attempt(async () => {
      do {
        const page = await get(PATH, { ...filters, limit: 100, cursor }, this.#page)
        for (const job of page.imports) this.#jobs.set(job.id, job)
        cursor = page.next_cursor
        this.#page.update()
      } while (cursor && this.#isLoading)
    })
    this.#isLoading = false
    this.#page.update()
  }

  async #act(name) {
    const { label, done, fits, text, call } = ACTIONS[name]
    const selected = [...this.#jobs.values()]
    const jobs = selected.filter(fits)
    const others = selected.length - jobs.length
    const left = others ? ` ${format.number(others)} of the selected cannot be ${done} in this state.` : ""
    const heading = `${label} ${format.count(jobs.length, "import")}?`
    if (!(await ask({ heading, text: text + left, confirmLabel: label, danger: name !== "retry" })) || !jobs.length) return
    this.#run = { done, count: 0, total: jobs.length, failures: [], isStopped: false, isOver: false }
    for (const job of jobs) {
      if (this.#run.isStopped || this.#page.signal.aborted) break
      try {
        await call(job, this.#page)
        this.#jobs.delete(job.id)
      } catch (error) {
        if (error.name === "AbortError") return
        if (!(error instanceof Problem)) throw error
        this.#run.failures.push({ name: nameOf(job), message: error.message })
        // other imports that failed stay selected
        if (error.status === 404) this.#jobs.delete(job.id)
      }
      this.#run.count += 1
      this.#page.update()
    }
    this.#run.isOver = true
    this.#page.announce(this.#sentence())
    this.#page.reload()
  }

  #sentence() {
    const { done, count, failures } = this.#run
    const text = `${format.count(count - failures.length, "import")} ${done}`
    return failures.length ? `${text}, ${format.number(failures.length)} failed` : text
  }

  #close() {
    if (this.#run.isOver) this.#run = null
    else this.#run.isStopped = true
    this.#page.update()
  }

  render(matching) {
    if (this.#run) return this.#progress()
    const size = this.#jobs.size
    return html`<div class="selection" role="group" aria-label="Selected imports">
      <b>${format.count(size, "import")} selected</b>
      ${
        this.#isLoading
          ? html`<button type="button" class="quiet" @click=${() => (this.#isLoading = false)}>Stop</button>`
          : matching !== null && matching > size
            ? html`<button type="button" class="quiet" @click=${() => this.#selectAll()}>
                Select all ${format.number(matching)} that match
              </button>`
            : nothing
      }
      <span class="grow"></span>
      ${Object.entries(ACTIONS).map(
        ([name, { label }]) =>
          html`<button
            type="button"
            class=${name === "delete" ? "danger" : ""}
            ?disabled=${this.#isLoading}
            @click=${() => this.#act(name)}
          >
            ${label}
          </button>`,
      )}
      <button type="button" class="quiet" @click=${() => (this.clear(), this.#page.update())}>Clear the selection</button>
    </div>`
  }

  #progress() {
    const { count, total, failures, isOver, isStopped } = this.#run
    const hidden = failures.length - FAILURES_SHOWN
    return html`<div class="selection" role="group" aria-label="Progress of the action">
      <b>${this.#sentence()}</b>
      ${
        isOver
          ? html`<span class="grow"
              >${isStopped ? `Stopped after ${format.number(count)} of ${format.number(total)}.` : ""}</span
            >`
          : html`<progress class="grow" aria-label="Progress" max=${total} value=${count}></progress>
              <span>${format.number(count)} of ${format.number(total)}</span>`
      }
      <button type="button" @click=${() => this.#close()}>${isOver ? "Close" : "Stop"}</button>
      ${
        failures.length
          ? html`<ul class="failures small">
              ${failures.slice(0, FAILURES_SHOWN).map(({ name, message }) => html`<li><b>${name}</b>: ${message}</li>`)}
              ${hidden > 0 ? html`<li>and ${format.number(hidden)} more</li>` : nothing}
            </ul>`
          : nothing
      }
    </div>`
  }
}
