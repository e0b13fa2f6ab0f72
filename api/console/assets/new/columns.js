// Which field each column of a file is: guessed, remembered in this browser, saved as a file. Names only, never values.

const REMEMBERED = "bulk.columns"
const REMEMBERED_MAX = 50
// columns that the service adds to refused records and ignores when they are sent again
const ANNOTATIONS = ["_line", "_errors"]

/** Other names that fields have in people's files, without case, white space, `_` and `-`. */
const ALIASES = {
  id: ["uuid", "guid", "identifier", "kennung", "идентификатор", "编号", "識別子"],
  email: [
    "mail",
    "emailaddress",
    "mailaddress",
    "emailadresse",
    "mailadresse",
    "courriel",
    "correo",
    "почта",
    "электроннаяпочта",
    "邮箱",
    "电子邮件",
    "メール",
    "メールアドレス",
  ],
  name: [
    "fullname",
    "displayname",
    "vollername",
    "vollständigername",
    "nom",
    "nombre",
    "имя",
    "полноеимя",
    "фио",
    "姓名",
    "名前",
    "氏名",
  ],
  role: ["rolle", "rol", "роль", "角色", "役割"],
  active: ["aktiv", "enabled", "isactive", "actif", "activo", "активен", "активный", "启用", "有効"],
  created_at: ["created", "createdon", "creationdate", "erstellt", "erstelltam", "создан", "создано", "创建时间", "作成日時"],
  updated_at: ["updated", "modified", "lastmodified", "geändert", "geändertam", "изменен", "изменено", "更新时间", "更新日時"],
  slug: ["permalink", "handle", "kürzel"],
  title: ["headline", "titel", "überschrift", "titre", "título", "заголовок", "标题", "タイトル"],
  body: ["text", "content", "inhalt", "contenu", "contenido", "текст", "содержание", "内容", "正文", "本文"],
  author_id: ["author", "autor", "auteur", "автор", "作者", "著者"],
  user_id: ["user", "benutzer", "nutzer", "utilisateur", "usuario", "пользователь", "用户", "ユーザー"],
  article_id: ["article", "artikel", "статья", "文章", "記事"],
  tags: ["labels", "keywords", "schlagworte", "schlagwörter", "теги", "标签", "タグ"],
  status: ["state", "zustand", "estado", "statut", "статус", "состояние", "状态", "状態"],
  published_at: [
    "published",
    "publishedon",
    "publicationdate",
    "veröffentlicht",
    "veröffentlichtam",
    "опубликовано",
    "发布时间",
    "公開日時",
  ],
}

/**
 * @typedef {object} Column of a file
 * @property {string} name in the file
 * @property {(string | null)[]} samples values of the first records
 * @property {string | null} field the field that it is, null to leave it out
 * @property {"matched" | "guessed" | "remembered" | "chosen" | "left out"} how
 */

const plain = (name) =>
  name
    .normalize("NFKC")
    .toLowerCase()
    .replace(/[\s_-]/g, "")

/**
 * Gives each column its most likely field; no field has two columns. Remembered mappings take precedence.
 * @param {{name: string, samples: (string | null)[]}[]} found in the file
 * @returns {Column[]}
 */
export function guess(found, resource) {
  const columns = found
    .filter(({ name }) => !ANNOTATIONS.includes(name))
    .map((column) => ({ ...column, field: null, how: "left out" }))
  const known = remembered(resource.name, columns)
  if (known) return apply(columns, known, resource, "remembered")
  const fields = new Set(resource.fields.map(({ name }) => name))
  const assign = (how, fits) => {
    for (const column of columns.filter(({ field }) => field === null)) {
      const name = plain(column.name)
      const field = [...fields].find((field) => fits(name, field))
      if (field === undefined) continue
      column.field = field
      column.how = how
      fields.delete(field)
    }
  }
  assign("matched", (name, field) => name === plain(field))
  assign("guessed", (name, field) => (ALIASES[field] ?? []).includes(name))
  for (const distance of [1, 2]) assign("guessed", (name, field) => isNear(name, plain(field), distance))
  return columns
}

/** A misspelling. In a short name two letters make another word: one in three may differ. */
function isNear(name, field, distance) {
  const isPossible = distance <= field.length / 3 && Math.abs(name.length - field.length) <= distance
  return isPossible && levenshtein(name, field) === distance
}

/** How many letters have to be inserted, removed or replaced to make one text of the other. */
export function levenshtein(one, other) {
  let row = Array.from({ length: other.length + 1 }, (_, n) => n)
  for (const [n, letter] of [...one].entries()) {
    const next = [n + 1]
    for (let m = 0; m < other.length; m += 1)
      next.push(Math.min(next[m] + 1, row[m + 1] + 1, row[m] + (letter === other[m] ? 0 : 1)))
    row = next
  }
  return row[other.length]
}

/** Makes a column a field, or leaves it out with null. A field that another column was is taken from it. */
export function choose(columns, name, field) {
  for (const column of columns) {
    if (column.name === name) Object.assign(column, { field, how: field === null ? "left out" : "chosen" })
    else if (field !== null && column.field === field) Object.assign(column, { field: null, how: "left out" })
  }
}

/** Applies a mapping of names to fields. Names that the file lacks and fields that the resource lacks are passed over. */
export function apply(columns, mapping, resource, how) {
  const free = new Set(resource.fields.map(({ name }) => name))
  for (const column of columns) {
    if (!Object.hasOwn(mapping, column.name)) continue
    const field = mapping[column.name]
    const isKnown = field !== null && free.delete(field)
    Object.assign(column, isKnown ? { field, how } : { field: null, how: "left out" })
  }
  // what the mapping does not name keeps its field, unless that is taken now
  for (const column of columns) {
    if (Object.hasOwn(mapping, column.name) || column.field === null) continue
    if (!free.delete(column.field)) Object.assign(column, { field: null, how: "left out" })
  }
  return columns
}

/** The required fields that no column is. */
export function missing(columns, resource) {
  const present = new Set(columns.map(({ field }) => field))
  return resource.fields.filter(({ name, required }) => required && !present.has(name)).map(({ name }) => name)
}

/** The value of the parameter `columns`, null when each column has the name of its field. */
export function parameter(columns) {
  const entries = columns.filter(({ name, field }) => field !== name).map(({ name, field }) => [name, field])
  return entries.length ? JSON.stringify(Object.fromEntries(entries)) : null
}

const mappingOf = (columns) => Object.fromEntries(columns.map(({ name, field }) => [name, field]))

// In this browser, for each resource and set of names

const setOf = (columns) =>
  columns
    .map(({ name }) => name)
    .sort()
    .join("\n")

function memory() {
  try {
    const entries = JSON.parse(localStorage.getItem(REMEMBERED) ?? "[]")
    return Array.isArray(entries) ? entries : []
  } catch {
    return []
  }
}

function remembered(resource, columns) {
  const names = setOf(columns)
  return memory().find((entry) => entry.resource === resource && entry.names === names)?.columns ?? null
}

/** Keeps the mapping for the next file with the same names. */
export function remember(resource, columns) {
  const names = setOf(columns)
  const others = memory().filter((entry) => entry.resource !== resource || entry.names !== names)
  const entries = [{ resource, names, columns: mappingOf(columns) }, ...others].slice(0, REMEMBERED_MAX)
  try {
    localStorage.setItem(REMEMBERED, JSON.stringify(entries))
  } catch {
    // the browser gives no room: the next file is guessed again
  }
}

// As a file

/** The text of a mapping file. */
export function toText(resource, columns) {
  return `${JSON.stringify({ resource, columns: mappingOf(columns) }, null, 2)}\n`
}

/** The mapping in a file that was saved here, or in the form of the parameter `columns`. Throws an Error if it has none. */
export function fromText(text) {
  let content
  try {
    content = JSON.parse(text)
  } catch {
    throw new Error("The file is not JSON.")
  }
  const mapping = content?.columns ?? content
  const isMapping =
    mapping && typeof mapping === "object" && Object.values(mapping).every((field) => field === null || typeof field === "string")
  if (!isMapping) throw new Error("The file has no mapping: an object with a field or null for each name.")
  return mapping
}
