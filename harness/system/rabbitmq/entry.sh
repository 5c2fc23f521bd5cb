# Starts one node of RabbitMQ in any image that has it. The harness puts this file and
# the configuration into the container; the data volume is /var/lib/rabbitmq.
# Environment: FAULTLINE_NODES (names of all nodes, the seed first), FAULTLINE_COOKIE.
set -eu
self=$(hostname)
data=/var/lib/rabbitmq
conf=/etc/rabbitmq/rabbitmq.conf

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

# Whom a node without data joins. Up to 3.13 the seed waits for nobody and the others
# wait for the seed, so that no two nodes begin a cluster each; from 4.0 on nodes choose
# the seed themselves, all by the same list. A node that comes back with nothing joins
# whoever is there.
cp /faultline/rabbitmq.conf $conf
major=$(ls -d "$bin"/../lib/*/plugins/rabbit-[0-9]* "$bin"/../plugins/rabbit-[0-9]* 2>/dev/null | sed -n '1s/.*rabbit-\([0-9]*\).*/\1/p')
first=$(echo "$FAULTLINE_NODES" | cut -d ' ' -f 1)
mark=/etc/rabbitmq/faultline.started # in the container, which outlives its disk
if [ -e $mark ] || [ "${major:-4}" -ge 4 ]; then
	peers=$FAULTLINE_NODES
elif [ "$self" = "$first" ]; then
	peers=
else
	peers="$first $self"
fi
n=0
for peer in $peers; do
	n=$((n + 1))
	echo "cluster_formation.classic_config.nodes.$n = rabbit@$peer" >>$conf
done
touch $mark

cd $data
export HOME=$data RABBITMQ_NODENAME="rabbit@$self" RABBITMQ_LOGS=-
exec "$bin/rabbitmq-server"
