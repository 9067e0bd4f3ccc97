#!/usr/bin/env bash
# CLI11 2.1.2, as in Debian 12: its reader of configuration files cuts a value at a # within quotes, and takes the
# closing quote with it. In TOML and INI as CLI11 documents them, a # in a quoted string is a character like any other.
#
# Seen with libcli11-dev 2.1.2+ds-1: name = "plant #2" is read as "plant, with the opening quote and without an error;
# other = "plant 2" is read as it should be.
set -euo pipefail

readonly kVersion=2.1.2+ds-1
folder=$(mktemp -d)
chmod 755 "$folder"
trap 'rm -rf "$folder"' EXIT
cd "$folder"

apt-get download -qq "libcli11-dev=$kVersion" >/dev/null 2>&1
dpkg -x "libcli11-dev_${kVersion}_"*.deb package

cat >program.cc <<'CODE'
#include <CLI/CLI.hpp>
#include <cstdio>

int main(int argc, char** argv) {
  CLI::App app;
  std::string name;
  std::string other;
  app.add_option("--name", name);
  app.add_option("--other", other);
  app.set_config("--config");
  CLI11_PARSE(app, argc, argv);
  std::printf("%s|%s\n", name.c_str(), other.c_str());
}
CODE
printf 'name = "plant #2"\nother = "plant 2"\n' >file.toml
g++ -std=c++17 -I package/usr/include program.cc -o program

seen=$(./program --config file.toml)
echo "libcli11-dev $kVersion read name = \"plant #2\", other = \"plant 2\" as: $seen"
[[ $seen == '"plant|plant 2' ]] || { echo "this has changed: expected '\"plant|plant 2'" >&2; exit 1; }
