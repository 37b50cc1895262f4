# Completion of preforkctl for bash. The commands come from its help, the pools from the daemon.

_preforkctl_commands() {
  preforkctl --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'
}

_preforkctl_pools() {
  preforkctl "$@" --json status 2>/dev/null | sed -n 's/^      "name": "\([a-z0-9_.-]*\)".*/\1/p'
}

_preforkctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
  local command= pool= socket=() words= i
  COMPREPLY=()

  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      --socket) socket=(--socket "${COMP_WORDS[++i]}") ;;
      --for) ((++i)) ;;
      -*) ;;
      *) if [[ -z $command ]]; then command=${COMP_WORDS[i]}; else pool=${pool:-${COMP_WORDS[i]}}; fi ;;
    esac
  done

  case $prev in
    --socket) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    --for) return ;;
  esac
  if [[ $cur == -* ]]; then
    words='--socket --json --help'
    [[ $command == set ]] && words+=' --for'
  elif [[ -z $command ]]; then
    words=$(_preforkctl_commands)
  elif [[ -z $pool ]]; then
    case $command in
      status|workers|why|set|recycle|drain|resume) words=$(_preforkctl_pools "${socket[@]}") ;;
    esac
  elif [[ $command == set && $cur != *=* ]]; then
    words='min= max= min_spare= max_spare= shrink_after='
    compopt -o nospace
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _preforkctl preforkctl
