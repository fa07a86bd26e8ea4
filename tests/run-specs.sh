#!/bin/sh
# Runs specs in one world: run-specs.sh HOST BUILD WORLD NAME [--alone] [OPTION...] [FILE...]
#
#   HOST     lua5.4: busted on the system's Lua, with the turboci.core module of the build
#            turboci: busted inside the build's program (`turboci test`): for sanitizer builds, whose module no stock
#            Lua can load
#   WORLD    virtual or grpc, handed on as TURBOCI_WORLD
#   NAME     the report goes to BUILD/junit/NAME.xml
#   --alone  instead of the suite of WORLD those of its specs that are not part of it
#   OPTION   busted's own, each one word: --shuffle --seed=7 --tags=TestLongChain
#   FILE     default: the suite of WORLD, which is every tests/spec/*_spec.lua that runs there. A spec says otherwise in
#            one of its first five lines: "-- world: grpc" or "-- world: virtual" (in that world only), "-- world: grpc,
#            alone" (what watches processes for seconds: not part of the suite, but a run of its own)
#
# SPEC_WRAPPER (a command, split at blanks) runs the whole thing under valgrind or a debugger. SPEC_WITHOUT: files that
# the default leaves out.
set -eu

host=$1 build=$(cd "$2" && pwd) world=$3 name=$4
shift 4
cd "$(dirname "$0")/.."
root=$(pwd)

options='' alone=''
while [ $# -gt 0 ]; do
  case $1 in
    --alone) alone=alone ;;
    -*) options="$options $1" ;;
    *) break ;;
  esac
  shift
done

if [ $# -eq 0 ]; then
  for spec in tests/spec/*_spec.lua; do
    mark=$(sed -n '1,5s/^-- world: \([a-z, ]*[a-z]\).*/\1/p' "$spec")
    case " ${SPEC_WITHOUT:-} " in *" $spec "*) continue ;; esac
    case $mark in
      "$world, alone") [ -n "$alone" ] || continue ;;
      '' | "$world") [ -z "$alone" ] || continue ;;
      *) continue ;;
    esac
    set -- "$@" "$spec"
  done
fi
[ $# -gt 0 ] || { echo "run-specs: no spec runs in the world '$world' ${alone}" >&2; exit 1; }

mkdir -p "$build/junit"
rm -f "$build/junit/$name.xml" "$build/junit/$name.turns"
export TURBOCI_TURNS="$build/junit/$name.turns"
export TURBOCI_WORLD="$world" TURBOCI_BIN="${TURBOCI_BIN:-$build/turboci}" TURBOCI_SOURCE="$root"
export LUA_PATH="$root/lua/?.lua;$root/lua/?/init.lua;$root/tests/spec/?.lua;;"
export LUA_CPATH="$build/lua/?.so;;"

case $host in
  lua5.4) runner="busted --lua=lua5.4" ;;
  turboci) runner="$build/turboci test" ;;
  *) echo "run-specs: HOST is lua5.4 or turboci, not '$host'" >&2; exit 2 ;;
esac
result=0
# shellcheck disable=SC2086 # commands with arguments, and a list of options
${SPEC_WRAPPER:-} $runner $options --output tests/spec_output.lua -Xoutput "$build/junit/$name.xml" "$@" || result=$?
# A runner that ends well without having run anything has not passed.
[ -s "$build/junit/$name.xml" ] || { echo "run-specs: no report was written" >&2; exit 1; }
# What a turn of the engine may take (limit turn_cpu_ms_max), unless something slows it down.
if [ -s "$TURBOCI_TURNS" ]; then
  longest=$(sort -n "$TURBOCI_TURNS" | tail -1)
  often=$(awk '$1 >= 50000' "$TURBOCI_TURNS" | wc -l) # once is the machine: CPU time is longer where many share the caches
  echo "longest turn of $(wc -l < "$TURBOCI_TURNS") servers: $longest us of CPU time"
  if [ "$often" -gt 2 ] && [ -z "${TURBOCI_SANITIZED:-}${SPEC_WRAPPER:-}" ]; then
    echo "run-specs: turns of $often servers took 50 ms of CPU time or more" >&2
    result=1
  fi
fi
exit $result
