// The resources: their fields with rules, the modes, template files.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { download, get } from "./client.js"
import * as format from "./format.js"
import { MODES } from "./modes.js"
import { Page } from "./page.js"
import { failure, icon, loading, state, time, toast } from "./parts.js"

export default class ResourcesPage extends Page {
  /** All resources, in the order in which they are imported; null until they are loaded. */
  resources = null
  /** The last imports of the resource that is shown. */
  imports = []

  get title() {
    return this.params.name ?? "Resources"
  }

  open() {
    return this.attempt(async () => {
      this.resources = (await get("/api/v1/resources", {}, this)).resources
      if (this.params.name) {
        this.imports = (await get("/api/v1/imports", { resource: this.params.name, limit: 5 }, this)).imports
      }
    })
  }

  render() {
    if (this.resources === null) return this.problem ? failure(this.problem, () => this.open()) : loading()
    if (!this.params.name) return this.#list()
    const resource = this.resources.find(({ name }) => name === this.params.name)
    if (!resource) {
      return html`<div class="empty">
        <h1>No such resource</h1>
        <p>There is no resource with the name <code>${this.params.name}</code>.</p>
        <a class="button" href="/ui/resources">All resources</a>
      </div>`
    }
    return this.#one(resource)
  }

  #list() {
    return html`
      <div class="head">
        <h1>Resources</h1>
        <p class="sub">What can be imported and exported, in the order in which records refer to each other: import from top to bottom.</p>
      </div>
      <ol class="stack resources">
        ${this.resources.map(
          (resource) => html`<li class="card">
            <header>
              <h2><a href=${`/ui/resources/${resource.name}`}>${resource.name}</a></h2>
              <a class="button" href=${`/ui/new?resource=${resource.name}`} data-changes>${icon("upload")} Import</a>
              <a class="button" href=${`/ui/exports/new?resource=${resource.name}`}>${icon("download")} Export</a>
            </header>
            <p class="fields">
              ${resource.fields.map(
                (field) => html`<span class="chip ${field.required ? "" : "plain"}">${field.name}${field.key ? " (key)" : ""}</span>`,
              )}
            </p>
          </li>`,
        )}
      </ol>
      <p class="muted small note">A field with a filled label is required.</p>
    `
  }

  #one(resource) {
    return html`
      <div class="head">
        <h1>${resource.name}</h1>
        <a class="button primary" href=${`/ui/new?resource=${resource.name}`} data-changes>${icon("upload")} Import</a>
        <a class="button" href=${`/ui/exports/new?resource=${resource.name}`}>${icon("download")} Export</a>
      </div>
      <div class="stack">
        <section class="card flush" aria-labelledby="fields">
          <header>
            <h2 id="fields">Fields</h2>
            ${["csv", "ndjson"].map(
              (name) => html`<button type="button" class="quiet" @click=${() => this.#template(resource, name)}>
                ${icon("file")} Template ${name.toUpperCase()}
              </button>`,
            )}
          </header>
          <table class="cards">
            <caption class="offscreen">
              Fields of ${resource.name}
            </caption>
            <thead>
              <tr>
                <th scope="col">Name</th>
                <th scope="col">Type</th>
                <th scope="col">Required</th>
                <th scope="col">Rules</th>
                <th scope="col">Description</th>
              </tr>
            </thead>
            <tbody>
              ${resource.fields.map(
                (field) => html`<tr>
                  <th scope="row" class="field-name"><code>${field.name}</code></th>
                  <td data-label="Type" class="nowrap">${field.type}</td>
                  <td data-label="Required">${field.required ? "yes" : "no"}</td>
                  <td data-label="Rules" class="full">${rules(field)}</td>
                  <td data-label="Description" class="full">${field.description ?? ""}</td>
                </tr>`,
              )}
            </tbody>
          </table>
        </section>
        <div class="halves">
          <section class="card" aria-labelledby="modes">
            <h2 id="modes">Modes of an import</h2>
            <dl class="facts">
              ${resource.modes.map((mode) => html`<dt><code>${mode}</code></dt><dd>${MODES[mode] ?? ""}</dd>`)}
            </dl>
          </section>
          <section class="card" aria-labelledby="last">
            <header>
              <h2 id="last">Last imports</h2>
              <a href=${`/ui/imports?resource=${resource.name}`}>All</a>
            </header>
            ${this.imports.length
              ? html`<ul class="lines">
                  ${this.imports.map(
                    (job) => html`<li class="row">
                      <a class="grow" href=${`/ui/imports/${job.id}`}>${job.file.name ?? format.shortId(job.id)}</a>
                      ${state(job)} <span class="muted small">${time(job.created_at)}</span>
                    </li>`,
                  )}
                </ul>`
              : html`<p class="muted">None yet.</p>`}
          </section>
        </div>
      </div>
    `
  }

  async #template(resource, name) {
    await download(`${resource.links.template}?format=${name}`).catch((problem) => toast(problem.message, "bad"))
  }
}

/** The rules of a field as text. */
function rules(field) {
  const parts = []
  if (field.key) parts.push("key: matched when a record has no id")
  if (field.reference) parts.push(html`the id of one of <a href=${`/ui/resources/${field.reference}`}>${field.reference}</a>`)
  if (field.enum) parts.push(html`one of ${field.enum.map((value, n) => html`${n ? ", " : nothing}<code>${value}</code>`)}`)
  const { min_length: min, max_length: max } = field
  if (min && max) parts.push(`${format.number(min)} to ${format.number(max)} characters`)
  else if (max) parts.push(`at most ${format.number(max)} characters`)
  else if (min === 1) parts.push("not empty")
  else if (min) parts.push(`at least ${format.number(min)} characters`)
  return parts.map((part, n) => html`${n ? "; " : nothing}${part}`)
}
