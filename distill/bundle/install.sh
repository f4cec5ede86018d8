#!/bin/sh
# Installs this bundle's models in Ollama:  sh install.sh
# Checks every file, asks one question, and only then gives the models their names. When something fails, nothing has changed.
set -u
umask 077

bundle='@BUNDLE@'
models='@MODELS@' # name:Modelfile, the one to use first
smoke='@SMOKE@'
suffix='@TRIAL@'
question='Source: the test pump runs at 24 volts. Question: at how many volts does the test pump run?'

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
joining="$here/$bundle.joining"
trial=''

say() { printf '%s\n' "$1"; }
fail() {
  printf '[FAIL] %s\n' "$1" >&2
  exit 1
}

clean_up() {
  rm -rf -- "$joining"
  for model in $trial; do ollama rm "$model" >/dev/null 2>&1; done
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

is_here() { command -v "$1" >/dev/null 2>&1; }

hash_file() {
  if is_here sha256sum; then
    sha256sum <"$1" | cut -c 1-64
  else
    shasum -a 256 <"$1" | cut -c 1-64
  fi
}

check_sums() {
  [ -f "$1/SHA256SUMS" ] || fail "$1/SHA256SUMS is missing: copy the whole bundle again"
  checked=0
  while read -r wanted file; do
    [ -f "$1/$file" ] || fail "$1/$file is missing: copy the whole bundle again"
    [ "$(hash_file "$1/$file")" = "$wanted" ] || fail "$1/$file is damaged: copy it again"
    checked=$((checked + 1))
  done <"$1/SHA256SUMS"
  [ "$checked" -gt 0 ] || fail "$1/SHA256SUMS is empty: copy the whole bundle again"
  say "[OK] $checked files in $1 are whole"
}

unpack() {
  if is_here unzip; then
    unzip -q "$1"
  elif is_here bsdtar; then
    bsdtar -xf "$1"
  else
    python3 -m zipfile -e "$1" .
  fi
}

join_parts() {
  is_here unzip || is_here bsdtar || is_here python3 || fail "nothing here can unpack a zip: install unzip, bsdtar or python3"
  check_sums "$here"
  rm -rf -- "$joining"
  mkdir -- "$joining" || fail "$here cannot be written to: copy the parts to a disk with room"
  parts=$(sed -n "s/^[0-9a-f]* [ *]\($bundle\.zip\.[0-9][0-9][0-9]\)\$/\1/p" "$here/SHA256SUMS")
  for part in $parts; do
    cat -- "$here/$part" >>"$joining/$bundle.zip" || fail "the parts could not be joined: is the disk full?"
  done
  (cd -- "$joining" && unpack "$bundle.zip") || fail "the joined zip could not be unpacked: is the disk full?"
  mv -- "$joining/$bundle" "$here/$bundle" || fail "$here/$bundle could not be made"
  rm -rf -- "$joining"
  say "[OK] joined the parts into $here/$bundle"
}

# 1. Ollama
is_here sha256sum || is_here shasum || fail "neither sha256sum nor shasum is here: install one of them, then run this again"
is_here ollama || fail "ollama is not on PATH: install Ollama, then run this again"
ollama list >/dev/null 2>&1 </dev/null ||
  fail "Ollama does not answer${OLLAMA_HOST:+ at $OLLAMA_HOST}: start it (ollama serve, or its app), then run this again"
say "[OK] Ollama answers"

# 2. Parts
folder="$here"
if [ -f "$here/$bundle.zip.001" ]; then
  folder="$here/$bundle"
  # An older bundle may have been unpacked there: it must not be installed in the name of these parts.
  [ -d "$folder" ] && fail "$folder is there already: delete it, or run install.sh in it"
  join_parts
fi

# 3. Files
check_sums "$folder"
[ -z "$smoke" ] || say "[WARN] $smoke"

# 4. Models, under names for trial
cd -- "$folder" || exit 1
for each in $models; do
  trial="$trial ${each%%:*}-$suffix"
  ollama create "${each%%:*}-$suffix" -f "${each#*:}" </dev/null ||
    fail "ollama create ${each%%:*} did not work, its reason stands above: nothing was changed"
done

# 5. One question
first=${models%%:*}
answer=$(ollama run "$first-$suffix" "$question" </dev/null) ||
  fail "$first gave no answer, the reason stands above: nothing was changed"
[ -n "$(printf '%s' "$answer" | tr -d '[:space:]')" ] || fail "$first gave an empty answer: nothing was changed"
say "[OK] asked: $question"
say "[OK] $first answers: $answer"

# 6. Names
for each in $models; do
  ollama cp "${each%%:*}-$suffix" "${each%%:*}" >/dev/null </dev/null ||
    fail "ollama cp ${each%%:*}-$suffix ${each%%:*} did not work, its reason stands above"
  say "[OK] ${each%%:*} is in Ollama"
done

# 7. HybridRAG3
say ''
cat HYBRIDRAG3.txt
