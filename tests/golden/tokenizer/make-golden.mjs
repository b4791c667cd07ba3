// Writes golden.tsv: the ids that llama.cpp makes of every line of texts.tsv, special tokens off.
//
//   npm install --ignore-scripts node-llama-cpp        in a folder of its own
//   PEER=FOLDER node make-golden.mjs VOCAB.gguf <texts.tsv >golden.tsv
//
// Both files: class, tab, text with the escapes \\ \n \r \t \xHH; golden.tsv has a tab and the ids
// after it. All texts are NFC, as llama.cpp does not normalize.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import fs from "node:fs";

const peer = createRequire(pathToFileURL(`${process.env.PEER}/`)).resolve("node-llama-cpp");
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(peer));
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: process.argv[2], vocabOnly: true});
const plain = {"\\\\": "\\", "\\n": "\n", "\\r": "\r", "\\t": "\t"};
const unescape = (s) =>
    s.replace(/\\(x..|.)/g, (e) => plain[e] ?? String.fromCodePoint(parseInt(e.slice(2), 16)));

const out = [];
for (const line of fs.readFileSync(0, "utf8").split("\n").filter(Boolean)) {
    const [name, text] = line.split("\t");
    out.push(`${name}\t${text}\t${model.tokenize(unescape(text), false).join(" ")}\n`);
}
process.stdout.write(out.join(""), () => process.exit(0));
