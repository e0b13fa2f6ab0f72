// What an import does with a record that matches a stored row. The modes are those of the API.

export const MODES = {
  insert: "Creates new rows. A record that matches a stored row is refused.",
  skip: "Creates new rows. A record that matches a stored row is passed over.",
  upsert: "Creates new rows and updates those that match.",
  update: "Updates rows that match. A record without a match is refused.",
}
