// The errors of an import: grouped by cause with a remedy, and one page of them in the order of the file.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { CAUSES, listedCauses } from "./causes.js"
import { get } from "./client.js"
import * as format from "./format.js"
import { canMend } from "./job_actions.js"
import { icon } from "./parts.js"
import { setQuery } from "./router.js"

const PAGE = 10
// of the API
const PAGE_MAX = 1000

export class ErrorList {
  errors = []
  cursor = null
  total = 0
  #page
  #shown = { filters: "", stored: 0 }

  /** @param {import("./page.js").Page & {job: object}} page whose query has the filters `code`, `field` and `record` */
  constructor(page) {
    this.#page = page
  }

  get filters() {
    const query = this.#page.query
    return { code: query.get("code"), field: query.get("field"), first_record: query.get("record") }
  }

  get isFiltered() {
    return Object.values(this.filters).some(Boolean)
  }

  /** Reloads the errors if they may have changed. Elements that the user has expanded stay expanded. */
  async load(job) {
    const filters = JSON.stringify(this.filters)
    const isSame = filters === this.#shown.filters
    if (isSame && job.errors_stored === this.#shown.stored) return
    const limit = isSame ? Math.min(Math.max(PAGE, this.errors.length), PAGE_MAX) : PAGE
    const page = job.errors_stored
      ? await get(job.links.errors, { ...this.filters, limit }, this.#page)
      : { errors: [], next_cursor: null, total: 0 }
    this.errors = page.errors
    this.cursor = page.next_cursor
    this.total = page.total
    this.#shown = { filters, stored: job.errors_stored }
  }

  async #more() {
    await this.#page.attempt(async () => {
      const page = await get(this.#page.job.links.errors, { ...this.filters, limit: PAGE, cursor: this.cursor }, this.#page)
      this.errors.push(...page.errors)
      this.cursor = page.next_cursor
    })
  }

  /** Shows the errors of a cause, or those from a record on, and puts the choice into the address. */
  async choose(filters) {
    setQuery({ code: null, field: null, record: null, ...filters })
    this.#page.query = new URLSearchParams(location.search)
    await this.#page.attempt(() => this.load(this.#page.job))
    const heading = document.querySelector("#errors-heading")
    heading?.scrollIntoView({ block: "nearest" })
    heading?.focus({ preventScroll: true })
  }

  /** The causes, each with its count, its first line and a remedy. */
  causes(job) {
    const { code, field } = this.filters
    const note = listedCauses(job)
    return html`<section class="card flush" aria-labelledby="causes-heading">
      <header><h2 id="causes-heading">Errors by cause</h2></header>
      <table class="cards">
        <caption class="offscreen">
          Errors by cause, the most frequent first
        </caption>
        <thead>
          <tr>
            <th scope="col">Cause</th>
            <th scope="col">Field</th>
            <th scope="col" class="number">Errors</th>
            <th scope="col" class="number">First line</th>
            <th scope="col">What to do</th>
            <th scope="col"><span class="offscreen">Actions</span></th>
          </tr>
        </thead>
        <tbody>
          ${job.error_summary.map((cause) => this.#cause(job, cause, cause.code === code && (cause.field ?? null) === field))}
        </tbody>
      </table>
      ${note ? html`<p class="muted small foot">${note}</p>` : nothing}
      ${
        job.errors_stored < job.error_count
          ? html`<p class="muted small foot">
              The first ${format.number(job.errors_stored)} of ${format.number(job.error_count)} errors are stored and counted
              here.
            </p>`
          : nothing
      }
    </section>`
  }

  #cause(job, cause, isChosen) {
    const known = CAUSES[cause.code]
    const query = new URLSearchParams({ code: cause.code, ...(cause.field ? { field: cause.field } : {}) })
    const what = `${known?.label ?? cause.code}${cause.field ? `, field ${cause.field}` : ""}`
    return html`<tr class=${isChosen ? "chosen" : ""}>
      <th scope="row" class="full">
        <button
          type="button"
          class="link"
          aria-pressed=${isChosen ? "true" : "false"}
          @click=${() => this.choose(isChosen ? {} : { code: cause.code, field: cause.field })}
        >
          ${known?.label ?? cause.code}
        </button>
        <div class="sub"><code>${cause.code}</code></div>
      </th>
      <td data-label="Field"><code>${cause.field ?? "whole record"}</code></td>
      <td data-label="Errors" class="number">${format.number(cause.count)}</td>
      <td data-label="First line" class="number">${format.number(cause.first_line)}</td>
      <td data-label="What to do" class="full">${known?.remedy ?? ""}</td>
      <td class="number full">
        ${
          canMend(job)
            ? html`<a
                class="button small-button"
                data-changes
                href=${`/ui/imports/${job.id}/mend?${query}`}
                aria-label=${`Mend these: ${what}`}
              >
                ${icon("edit")} Mend these
              </a>`
            : nothing
        }
      </td>
    </tr>`
  }

  /** One page of errors, in the order of the file. */
  list() {
    const { code, field, first_record: record } = this.filters
    const rest = [
      code ? (CAUSES[code]?.label ?? code) : "",
      field ? `field ${field}` : "",
      record ? `from record ${record} on` : "",
    ]
    return html`<section class="card flush error-list" aria-labelledby="errors-heading">
      <header>
        <h2 id="errors-heading" tabindex="-1">${this.isFiltered ? "Errors" : "First errors"}</h2>
        ${
          this.isFiltered
            ? html`<span class="muted">${rest.filter(Boolean).join(", ")}</span>
                <button type="button" class="quiet" @click=${() => this.choose({})}>${icon("close")} Show all</button>`
            : nothing
        }
      </header>
      ${
        this.errors.length
          ? html`<table class="cards">
              <caption class="offscreen">
                Errors in the order of the file
              </caption>
              <thead>
                <tr>
                  <th scope="col" class="number line-column">Line</th>
                  <th scope="col">Field</th>
                  <th scope="col" class="error-column">Error</th>
                  <th scope="col">Value</th>
                </tr>
              </thead>
              <tbody>
                ${this.errors.map((error) => row(error))}
              </tbody>
            </table>`
          : html`<p class="muted foot">There is no such error.</p>`
      }
      ${
        this.cursor
          ? html`<p class="row foot">
              <button type="button" @click=${() => this.#more()}>Show ${PAGE} more</button>
              <span class="muted small"
                >${format.number(this.errors.length)}
                ${
                  // the number of errors before a record is not known
                  record ? "shown" : html`of ${format.number(this.total)}`
                }</span
              >
            </p>`
          : nothing
      }
    </section>`
  }
}

function row(error) {
  return html`<tr>
    <td data-label="Line" class="number line-column">${format.number(error.line)}</td>
    <td data-label="Field"><code>${error.field ?? "whole record"}</code></td>
    <td data-label="Error" class="full">
      ${CAUSES[error.code]?.label ?? error.code}
      <div class="sub">${error.message}</div>
    </td>
    <td data-label="Value" class="full">${valueOf(error)}</td>
  </tr>`
}

/** The refused value, or else the key of the record. */
function valueOf({ value, key, id }) {
  if (value !== null) return html`<span class="value clamped">${value}</span>`
  const name = key ?? id
  return name === null ? "–" : html`<span class="muted small">none, in</span> <span class="value">${name}</span>`
}
