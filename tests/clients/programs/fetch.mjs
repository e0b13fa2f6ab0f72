import { openAsBlob, createReadStream } from "node:fs";
import { writeFile } from "node:fs/promises";
import { Readable } from "node:stream";

const [action, ...rest] = process.argv.slice(2);
if (action === "upload") {
    const [form, url, file] = rest;
    let body, headers = { "Content-Type": "text/csv" };
    if (form === "length") body = await openAsBlob(file);
    if (form === "chunked") body = Readable.toWeb(createReadStream(file));
    if (form === "form") {
        body = new FormData();
        body.append("file", await openAsBlob(file), "users.csv");
        headers = {};
    }
    const response = await fetch(url, { method: "POST", body, headers, duplex: "half" });
    const text = await response.text();
    if (!response.ok) throw new Error(`${response.status} ${text}`);
    process.stdout.write(text);
} else {
    const [url, file] = rest;
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    await writeFile(file, Buffer.from(await response.arrayBuffer()));
}
