// A new export: resource, fields and their order, filters, format; as a stream now or as a file in the background.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { repeat } from "./vendor/lit-html/directives/repeat.js"
import { address, asCurl, download, get, post, Problem, randomKey, send } from "./client.js"
import { Page } from "./page.js"
import { curl, failure, icon, loading, toast } from "./parts.js"
import { navigate, setQuery } from "./router.js"

const FORMATS = [
  ["csv", "CSV", "for spreadsheets and databases"],
  ["ndjson", "NDJSON", "one JSON object a line"],
  ["json", "JSON", "one array"],
  ["xlsx", "XLSX", "a workbook"],
  ["parquet", "Parquet", "columns with types, for data tools"],
  ["arrow", "Arrow", "a stream of columns with types"],
]
// formats that are compressed already
const PACKED = ["xlsx", "parquet"]

export default class NewExportPage extends Page {
  resources = null
  /** The fields in the order of the file, as `{name, isOn}`. */
  fields = []
  /** The text of each filter, by its name. */
  filters = {}
  format = "csv"
  compression = "none"
  csvSafe = false
  bom = false
  isBusy = false
  /** The problem of the last attempt, or null. */
  refusal = null
  /** One key for all attempts of one export, so that a repeated request creates one job. */
  key = randomKey()

  get title() {
    return "New export"
  }

  get resource() {
    return this.resources.find(({ name }) => name === this.query.get("resource")) ?? this.resources[0]
  }

  open() {
    return this.attempt(async () => {
      this.resources = (await get("/api/v1/resources", {}, this)).resources
      this.#reset()
    })
  }

  #reset() {
    this.fields = this.resource.fields.map(({ name }) => ({ name, isOn: true }))
    this.filters = {}
    this.refusal = null
  }

  #choose(name) {
    this.#query({ resource: name })
    this.#reset()
    this.update()
  }

  #query(given) {
    setQuery(given)
    this.query = new URLSearchParams(location.search)
  }

  /** The formats in which the service exports: Parquet and Arrow need a library. */
  get #formats() {
    return FORMATS.filter(([name]) => this.resource.export_formats.includes(name))
  }

  /** The names of the fields, or null for all of them in their default order. */
  get chosen() {
    const names = this.fields.filter(({ isOn }) => isOn).map(({ name }) => name)
    const all = this.resource.fields.map(({ name }) => name)
    return names.length === all.length && names.every((name, n) => name === all[n]) ? null : names
  }

  /** The watermark of an earlier export: only what was stored or changed since is exported. */
  get changedSince() {
    return this.query.get("changed_since") ?? undefined
  }

  get given() {
    return Object.fromEntries(Object.entries(this.filters).filter(([, value]) => value !== ""))
  }

  get streamPath() {
    return address(`/api/v1/exports/${this.resource.name}/stream`, {
      format: this.format,
      fields: this.chosen?.join(","),
      changed_since: this.changedSince,
      ...this.given,
      csv_safe: this.format === "csv" && this.csvSafe ? "true" : undefined,
      bom: this.format === "csv" && this.bom ? "true" : undefined,
    })
  }

  get job() {
    const { chosen, given } = this
    return {
      resource: this.resource.name,
      format: this.format,
      ...(this.compression === "none" || PACKED.includes(this.format) ? {} : { compression: this.compression }),
      ...(chosen ? { fields: chosen } : {}),
      ...(Object.keys(given).length ? { filters: given } : {}),
      ...(this.changedSince ? { changed_since: this.changedSince } : {}),
      ...(this.format === "csv" && this.csvSafe ? { csv_safe: true } : {}),
      ...(this.format === "csv" && this.bom ? { bom: true } : {}),
    }
  }

  async #stream() {
    this.refusal = null
    try {
      // checks the selection first, because the browser would show the error of a download outside of the page
      await send("GET", this.streamPath, { query: { limit: 1 }, signal: this.signal })
      await download(this.streamPath)
      toast("The download has begun")
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem
      this.refusal = problem
    }
    this.update()
  }

  async #background() {
    this.isBusy = true
    this.refusal = null
    this.update()
    try {
      const job = await post("/api/v1/exports", this.job, { headers: { "Idempotency-Key": this.key }, signal: this.signal })
      navigate(`/ui/exports/${job.id}`)
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem
      this.refusal = problem
      if (!problem.isTemporary) this.key = randomKey()
    } finally {
      this.isBusy = false
      this.update()
    }
  }

  render() {
    if (this.resources === null) return this.problem ? failure(this.problem, () => this.open()) : loading()
    return html`
      <div class="head">
        <h1>New export</h1>
      </div>
      <form class="stack" @submit=${(event) => event.preventDefault()}>
        <div class="columns">
          <div class="stack">
            <section class="card" aria-labelledby="what">
              <h2 id="what">Resource</h2>
              <div class="row">
                ${this.resources.map(
                  ({ name }) => html`<label class="option"
                    ><input type="radio" name="resource" .checked=${name === this.resource.name} @change=${() => this.#choose(name)} />
                    ${name}</label
                  >`,
                )}
              </div>
            </section>
            <section class="card" aria-labelledby="filters">
              <h2 id="filters">Filters</h2>
              <p class="muted small">All of them have to hold. Leave a filter empty to pass it over; commas mean any of these values.</p>
              ${this.changedSince
                ? html`<div class="notice info note" role="status">
                    ${icon("info")}
                    <div class="grow">
                      Only records that were stored or changed since the earlier export. Deleted records are not listed.
                    </div>
                    <button type="button" @click=${() => (this.#query({ changed_since: "" }), this.update())}>All records</button>
                  </div>`
                : nothing}
              <div class="form-grid note">${this.resource.filters.map((filter) => this.#filter(filter))}</div>
            </section>
            <section class="card" aria-labelledby="form">
              <h2 id="form">Format</h2>
              <div class="row">
                ${this.#formats.map(
                  ([name, label, hint]) => html`<label class="option"
                    ><input type="radio" name="format" .checked=${this.format === name} @change=${() => this.#set("format", name)} />
                    <span>${label}<br /><span class="hint">${hint}</span></span></label
                  >`,
                )}
              </div>
              ${this.format === "csv"
                ? html`<label class="check"
                    ><input type="checkbox" .checked=${this.csvSafe} @change=${(event) => this.#set("csvSafe", event.target.checked)} />
                    Guard texts that a spreadsheet would take for a formula</label
                  >
                  <label class="check"
                    ><input type="checkbox" .checked=${this.bom} @change=${(event) => this.#set("bom", event.target.checked)} />
                    Begin with a byte order mark, by which Excel reads it as UTF-8</label
                  >`
                : nothing}
            </section>
          </div>
          <section class="card" aria-labelledby="fields">
            <header>
              <h2 id="fields">Fields</h2>
              <button type="button" class="quiet" @click=${() => (this.#reset(), this.update())}>All</button>
            </header>
            <ol class="lines order">
              ${repeat(
                this.fields,
                ({ name }) => name,
                (field, n) => this.#field(field, n),
              )}
            </ol>
          </section>
        </div>
        ${this.refusal ? failure(this.refusal) : nothing}
        <section class="card" aria-labelledby="go">
          <h2 id="go" class="offscreen">Export</h2>
          <div class="row">
            <button type="button" class="primary" ?disabled=${!this.fields.some(({ isOn }) => isOn)} @click=${() => this.#stream()}>
              ${icon("download")} Stream now
            </button>
            <span class="muted grow">The browser downloads the records as they are read.</span>
          </div>
          <hr />
          <div class="row" data-changes>
            <button type="button" ?disabled=${this.isBusy || !this.fields.some(({ isOn }) => isOn)} @click=${() => this.#background()}>
              ${icon("file")} Write a file in the background
            </button>
            ${PACKED.includes(this.format)
              ? nothing
              : html`<label class="row"
                  >Packed
                  <select @change=${(event) => this.#set("compression", event.target.value)}>
                    ${["none", "gzip", "zstd"].map((name) => html`<option ?selected=${this.compression === name}>${name}</option>`)}
                  </select></label
                >`}
            <span class="muted grow">A download that breaks off can be continued.</span>
          </div>
          <div class="note">${curl(asCurl("GET", this.streamPath))}</div>
        </section>
      </form>
    `
  }

  #set(name, value) {
    this[name] = value
    this.update()
  }

  #field(field, n) {
    const move = (by) => {
      const [moved] = this.fields.splice(n, 1)
      this.fields.splice(n + by, 0, moved)
      this.announce(`${moved.name} is now in place ${n + by + 1}`)
      this.update()
    }
    return html`<li class="row">
      <label class="check grow"
        ><input
          type="checkbox"
          .checked=${field.isOn}
          @change=${(event) => {
            field.isOn = event.target.checked
            this.update()
          }}
        />
        <code>${field.name}</code></label
      >
      <button type="button" class="quiet icon-only" ?disabled=${n === 0} aria-label=${`Move ${field.name} up`} @click=${() => move(-1)}>↑</button>
      <button
        type="button"
        class="quiet icon-only"
        ?disabled=${n === this.fields.length - 1}
        aria-label=${`Move ${field.name} down`}
        @click=${() => move(1)}
      >
        ↓
      </button>
    </li>`
  }

  #filter({ name, field: column, test }) {
    const field = this.resource.fields.find((one) => one.name === column)
    const error = this.refusal?.errors.find((one) => one.field === name || one.field === `filters.${name}`)
    const id = `filter-${name}`
    const set = (value) => {
      this.filters[name] = value
      this.update()
    }
    return html`<div class="field">
      <label for=${id}>${name.replaceAll("_", " ")}</label>
      ${this.#input(name, field, { id, set, error, isTime: test === "from" || test === "before" })}
      ${error ? html`<p class="field-error" id=${`${id}-error`}>${icon("alert")} ${error.message}</p>` : nothing}
    </div>`
  }

  #input(name, field, { id, set, error, isTime }) {
    const value = this.filters[name] ?? ""
    const options = field.enum ?? (field.type === "boolean" ? ["true", "false"] : null)
    if (options) {
      return html`<select id=${id} @change=${(event) => set(event.target.value)}>
        <option value="">any</option>
        ${options.map((option) => html`<option ?selected=${option === value}>${option}</option>`)}
      </select>`
    }
    return html`<input
      id=${id}
      type=${isTime ? "datetime-local" : "text"}
      step=${isTime ? "1" : nothing}
      autocomplete="off"
      aria-invalid=${error ? "true" : nothing}
      aria-describedby=${error ? `${id}-error` : nothing}
      @change=${(event) => set(isTime && event.target.value ? new Date(event.target.value).toISOString() : event.target.value.trim())}
    />`
  }
}
