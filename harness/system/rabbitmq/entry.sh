# Starts one node of RabbitMQ in any image that has it. The harness puts this file and
# the configuration into the container; the data volume is /var/lib/rabbitmq.
# Environment: FAULTLINE_NODES (names of all nodes), FAULTLINE_COOKIE.
set -eu
self=$(hostname)
data=/var/lib/rabbitmq

for bin in /usr/lib/rabbitmq/bin /opt/rabbitmq/sbin "$(dirname "$(command -v rabbitmq-server || echo /none)")"; do
	[ -x "$bin/rabbitmq-server" ] && break
done
if [ ! -x "$bin/rabbitmq-server" ]; then
	echo "this image has no rabbitmq-server" >&2
	exit 127
fi

# The cookie is not on the volume for good: a lost disk takes it, a full one may keep it.
cookie=$data/.erlang.cookie
if [ "$(cat $cookie 2>/dev/null)" != "$FAULTLINE_COOKIE" ]; then
	rm -f $cookie
	printf %s "$FAULTLINE_COOKIE" >$cookie
fi
chmod 400 $cookie
chown rabbitmq $cookie 2>/dev/null || true # for rabbitmqctl by hand

# Peer discovery by the list of all nodes: under a lock that all of them know one begins
# the cluster, and the others join it, one after another.
cp /faultline/rabbitmq.conf /etc/rabbitmq/rabbitmq.conf
n=0
for peer in $FAULTLINE_NODES; do
	n=$((n + 1))
	echo "cluster_formation.classic_config.nodes.$n = rabbit@$peer" >>/etc/rabbitmq/rabbitmq.conf
done

cd $data
export HOME=$data RABBITMQ_NODENAME="rabbit@$self" RABBITMQ_LOGS=-
exec "$bin/rabbitmq-server"
