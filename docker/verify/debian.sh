# Docker's parts from Debian's packages, for machines without them. Sourced; needs Debian 12, apt and, for the daemon, root.
# Debian 12 itself has no `docker compose`, so they come from the next release, into a folder, signatures checked; the
# machine's own list of packages stays as it is.

debian_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1
}

fetch_from_trixie() {  # fetch_from_trixie FOLDER PACKAGE...: unpack the packages there, without what they depend on
    local folder=$1 apt=$1/apt
    shift
    mkdir -p "$apt/lists/partial" "$apt/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) trixie main" > "$apt/sources.list"
    local options=(
        -qq -o APT::Sandbox::User=root -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt"
    )
    apt-get "${options[@]}" update
    (cd "$apt" && apt-get "${options[@]}" download "${@/%//trixie}")
    local package
    for package in "$apt"/*.deb; do dpkg -x "$package" "$folder"; done
    rm -rf "$apt"
}
