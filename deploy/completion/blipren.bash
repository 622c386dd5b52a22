# deploy/completion/blipren.bash - bash completion of the four programs. Commands and options come from --help, so they are always
# those of the program at hand.

# What --help quotes belongs to other programs.
_blipren_options() { # PROGRAM COMMAND
    # shellcheck disable=SC2016
    "$1" ${2:+"$2"} --help 2>/dev/null | sed 's/`[^`]*`//g' | grep -oE -e '--[a-z][a-z-]*' | sort -u
}

_blipren_commands() { # PROGRAM
    "$1" --help 2>/dev/null | grep -oE "(usage:|^) +${1##*/} [a-z][a-z-]* " | grep -oE '[a-z][a-z-]* $'
}

_blipren() {
    local program=$1 word=$2 before=$3 commands command="" i
    commands=$(_blipren_commands "$program")
    for ((i = 1; i < COMP_CWORD; i++)); do
        grep -qx "${COMP_WORDS[i]} " <<<"$commands" && command=${COMP_WORDS[i]} && break
    done
    COMPREPLY=()
    case $before in
    --checkpoint | --vision | --llm | --model | --into | --keys) mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
    --device) mapfile -t COMPREPLY < <(compgen -W "auto cpu $("$program" devices 2>/dev/null | grep -oE '^cuda:[0-9]+')" -- "$word") ;;
    --precision) mapfile -t COMPREPLY < <(compgen -W "bf16 f32" -- "$word") ;;
    --attention | --pairs | --list | --out | --html) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    --coord | --host | --local | --name | --prefix | --queries | --threads | --capacity | --patience | --grace | --bind | --parent | --beam | \
        --temperature | --top-p | --seed | --max-new | --max-trace | --column | --max-pixels | --longest) ;;
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$(_blipren_options "$program" "$command")" -- "$word")
        elif [[ -z $command && $COMP_CWORD -eq 1 && -n $commands ]]; then
            mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
        else
            mapfile -t COMPREPLY < <(compgen -f -- "$word")
        fi
        ;;
    esac
}

complete -o filenames -F _blipren blipren-coord blipren-loader blipren-worker blipren-demo
