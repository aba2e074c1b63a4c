# Run once, by the image's entry point, on an empty data folder: a user for each program. What each may do is granted
# by the schema-upgrade Job once the tables exist (latido db grants); only `upgrade`, which owns them, may grant.
# shellcheck shell=bash
user() { # NAME
  local password
  password=$(sed -e 's/\\/\\\\/g' -e "s/'/''/g" "/etc/latido/database/$1")
  printf "CREATE USER IF NOT EXISTS 'latido_%s'@'%%' IDENTIFIED BY '%s';\n" "$1" "$password"
}
{
  for name in upgrade ingest bridge grafana history retain; do user "$name"; done
  echo "GRANT ALL ON latido.* TO 'latido_upgrade'@'%' WITH GRANT OPTION;"
} | docker_process_sql
