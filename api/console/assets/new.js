// New import: file, columns, check, store, in one page. The summary of each step stays visible; going back keeps everything.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { credentials, get } from "./client.js"
import { onFiles } from "./files.js"
import * as format from "./format.js"
import { Page } from "./page.js"
import { failure, icon, loading, toast } from "./parts.js"
import { checkStep, checkSummary, results } from "./new/check_step.js"
import { columnsStep, columnsSummary } from "./new/columns_step.js"
import { Draft, STEPS } from "./new/draft.js"
import { fileStep, fileSummary } from "./new/file_step.js"
import { storeStep } from "./new/store_step.js"

const PARTS = [
  { body: fileStep, summary: fileSummary },
  { body: columnsStep, summary: columnsSummary },
  { body: checkStep, summary: checkSummary, afterwards: results },
  { body: storeStep, summary: () => "" },
]

// kept when the page is left: on return its state is the same, and an upload continues meanwhile
let draft = new Draft()

export default class NewImportPage extends Page {
  draft = draft
  recent = []
  pasteFault = null
  #shownStep = draft.step
  #fault = null

  get title() {
    return "New import"
  }

  async open() {
    if (draft.isOver || draft.key !== credentials.key) this.startOver()
    this.#attach()
    await this.poll(async () => {
      draft.resources = (await get("/api/v1/resources", {}, this)).resources
      this.recent = (await get("/api/v1/imports", { limit: 20 }, this)).imports
      return null
    })
    if (this.problem || this.signal.aborted) return
    draft.preferred = this.query.get("resource")
    onFiles((files) => this.take(files), this.signal)
    draft.resume()
  }

  close() {
    super.close()
    // on other pages the end of an import is announced, not its progress
    draft.onchange = (sentence) => sentence && !draft.isBusy && toast(sentence)
  }

  #attach() {
    this.draft = draft
    draft.onchange = (sentence) => {
      this.update()
      if (sentence) this.announce(sentence)
    }
  }

  startOver() {
    draft = new Draft()
    this.draft.onchange = () => {}
    draft.resources = this.draft.resources
    this.#attach()
    this.update()
  }

  /** Adds files; `input` is emptied, so that the same file can be chosen again. */
  async take(files, input = null) {
    if (input) input.value = ""
    if (!files.length) return
    if (draft.isOver) this.startOver()
    if (draft.isBusy) return toast("An import is under way: wait for its end, or cancel it.", "bad")
    draft.step = 1
    await draft.add(files)
    return this.announce(`${format.count(files.length, "file")} added.`)
  }

  async convert(entry) {
    await draft.convert(entry)
    this.announce(`${entry.file.name} was converted to UTF-8.`)
  }

  /** The imports that can be chosen for `after`. */
  get afterOptions() {
    const usable = this.recent.filter(({ status, dry_run }) => !dry_run && !["failed", "cancelled"].includes(status))
    return [
      ["", "none"],
      ...usable.map((job) => [
        job.id,
        `${job.file.name ?? format.shortId(job.id)}, ${job.resource}, ${format.ago(job.created_at)}`,
      ]),
    ]
  }

  update() {
    super.update()
    if (this.signal.aborted) return
    const fault = document.querySelector("main [aria-invalid=true]:enabled")
    if (draft.step !== this.#shownStep) this.#focus(fault ?? document.querySelector(`#step-${draft.step}`))
    else if (fault && fault.id !== this.#fault) fault.focus()
    this.#shownStep = draft.step
    this.#fault = fault?.id ?? null
  }

  #focus(element) {
    element?.focus({ preventScroll: true })
    const step = element?.closest(".step")
    step?.scrollIntoView({ block: step.offsetHeight > innerHeight ? "start" : "nearest" })
  }

  render() {
    if (!draft.resources.length) return this.problem ? failure(this.problem, () => this.open()) : loading()
    return html`
      <div class="head">
        <h1>New import</h1>
        ${
          draft.entries.length && !draft.isBusy
            ? html`<button type="button" class="quiet" @click=${() => this.startOver()}>${icon("retry")} Start over</button>`
            : nothing
        }
      </div>
      ${this.problem ? failure(this.problem) : nothing}
      ${
        document.documentElement.dataset.role === "read"
          ? html`<p class="notice warn">
              ${icon("key")} <span>This key may only read: a file can be looked at, but not sent.</span>
            </p>`
          : nothing
      }
      <ol class="steps">
        ${STEPS.map((name, n) => this.#step(name, n + 1))}
      </ol>
    `
  }

  #step(name, number) {
    const { body, summary, afterwards } = PARTS[number - 1]
    const isDone = number < draft.step
    const isCurrent = number === draft.step
    const canChange = isDone && !draft.isBusy && !draft.entries.some(({ stored }) => stored)
    return html`<li
      class="card step ${isDone ? "done" : isCurrent ? "current" : "ahead"}"
      aria-current=${isCurrent ? "step" : nothing}
    >
      <header>
        <span class="step-number" aria-hidden="true">${isDone ? icon("check") : number}</span>
        <h2 id=${`step-${number}`} tabindex="-1">${name}</h2>
        ${isDone ? html`<p class="muted grow">${summary(draft)}</p>` : nothing}
        ${
          canChange
            ? html`<button type="button" class="quiet" aria-label=${`Change: ${name}`} @click=${() => draft.goTo(number)}>
                ${icon("edit")} Change
              </button>`
            : nothing
        }
      </header>
      ${isCurrent ? html`<div class="stack">${body(this)} ${number < 3 ? this.#onward(number) : nothing}</div>` : nothing}
      ${isDone && afterwards ? html`<div class="stack">${afterwards(this)}</div>` : nothing}
    </li>`
  }

  #onward(number) {
    if (!draft.entries.length) return nothing
    const { obstacles } = draft
    return html`<div class="buttons split">
      <p class="muted" id="obstacles">${obstacles.join(" ")}</p>
      ${number > 1 ? html`<button type="button" @click=${() => draft.goTo(number - 1)}>Back</button>` : nothing}
      <button
        type="button"
        class="primary"
        ?disabled=${obstacles.length > 0}
        aria-describedby="obstacles"
        @click=${() => draft.goTo(number + 1)}
      >
        Continue
      </button>
    </div>`
  }
}
