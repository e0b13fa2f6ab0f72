// The keyboard in the grid. The attributes data-row and data-column are the position of a field.

export const KEYS = [
  ["Tab", "Next cell; with Shift the one before"],
  ["Enter", "Same column of the next record; with Shift of the one before"],
  ["Alt ↓", "Next cell with an error; Alt ↑ the one before"],
  ["Esc", "Take back the edit of this cell"],
  ["Ctrl Z", "Undo the last change"],
  ["F2", "Open the cell as a large text"],
]

/** Handles a key in a field. `reset()` reverts the edit of the field, `open()` shows it as a large text. */
export function press(event, { reset, open, announce }) {
  const { target, key } = event
  const row = Number(target.dataset.row)
  const column = Number(target.dataset.column)
  const isPlain = !event.ctrlKey && !event.metaKey && !event.altKey
  // a button is pressed by Enter
  const isMove = key === "Enter" && isPlain && (event.shiftKey || !(target instanceof HTMLButtonElement))
  if (event.altKey && (key === "ArrowDown" || key === "ArrowUp")) focusBad(target, key === "ArrowDown" ? 1 : -1, announce)
  else if (isMove) focusCell(row + (event.shiftKey ? -1 : 1), column)
  else if (key === "Escape" && isPlain) reset()
  else if (key === "F2" && isPlain && target instanceof HTMLInputElement) open()
  else return
  event.preventDefault()
}

/** Puts the focus into a field; a record that cannot be split has one for all columns. */
export function focusCell(row, column) {
  const field =
    document.querySelector(`.mend-grid [data-row="${row}"][data-column="${column}"]`) ??
    document.querySelector(`.mend-grid [data-row="${row}"]`)
  if (field) focus(field)
}

function focusBad(target, step, announce) {
  const fields = [...document.querySelectorAll(".mend-grid td.cell.bad [data-row]:not(:disabled)")]
  const isBehind = (field) => Boolean(target.compareDocumentPosition(field) & Node.DOCUMENT_POSITION_FOLLOWING)
  const next = step > 0 ? fields.find(isBehind) : fields.filter((field) => field !== target && !isBehind(field)).pop()
  if (next) focus(next)
  else announce(step > 0 ? "No further cell with an error on this page" : "No cell with an error before this one")
}

function focus(field) {
  field.focus()
  if (field instanceof HTMLInputElement) field.select()
}
