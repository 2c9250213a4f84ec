# ask ADDRESS HOST PATH: the whole HTTP answer, by bash alone
ask() {
    exec 3<> "/dev/tcp/${1%:*}/${1##*:}"
    printf 'GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n' "$3" "$2" >&3
    cat <&3
    exec 3>&-
}

# version: what this commit calls itself
version() {
    sed -n 's/^version: *//p' service.yml
}
