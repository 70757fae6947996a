#!/usr/bin/env node
/** The command line's entry: argv in, exit code out. */
import { run } from "./program.js";

// A reader that has seen enough (`| head`) closes the pipe: the work goes on, its words are lost. A full disk is told where it still can be.
for (const stream of [process.stdout, process.stderr])
  stream.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") return;
    process.exitCode = 1;
    if (stream === process.stdout) process.stderr.write(`error: the output cannot be written: ${error.message}\n`);
  });

const code = await run(process.argv.slice(2), { stdout: process.stdout, stderr: process.stderr, env: process.env });
process.exitCode ||= code;
