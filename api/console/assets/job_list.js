// What the list of imports and the list of exports have in common: a filtered list of the API, read page by page.

import { html, nothing } from "./vendor/lit-html/lit-html.js"
import { get } from "./client.js"
import { Page } from "./page.js"

const PAGE = 50

export class JobListPage extends Page {
  /** The name of the list in the API: imports or exports. */
  kind = ""
  /** The shown jobs, newest first; null until they are loaded. */
  jobs = null
  /** The cursor of the next page; null on the last one. */
  cursor = null
  /** The names of the resources. */
  resources = []

  get path() {
    return `/api/v1/${this.kind}`
  }

  /** The filters of the list by the names that they have in the API. */
  get filters() {
    return {}
  }

  loadResources() {
    return this.attempt(async () => {
      this.resources = (await get("/api/v1/resources", {}, this)).resources.map(({ name }) => name)
    })
  }

  /** Loads one page of the list. `parameters` are further ones besides the filters. */
  loadPage(parameters = {}) {
    return get(this.path, { ...this.filters, limit: PAGE, ...parameters }, this)
  }

  /** Loads and shows the next page. */
  more() {
    return this.attempt(async () => {
      const page = await this.loadPage({ cursor: this.cursor })
      this.jobs.push(...page[this.kind])
      this.cursor = page.next_cursor
    })
  }

  moreButton() {
    if (!this.cursor) return nothing
    return html`<p class="row center-row">
      <button type="button" @click=${() => this.more()}>Show older ${this.kind}</button>
    </p>`
  }
}
