package anykafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/harness/system/kafka"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"
)

// cluster is a running cluster.
type cluster struct {
	*kafka.Cluster
	spec    system.Spec
	v       values
	resolve func(node string) (string, error)
	// is reports whether a broker, as the cluster lists it, is a node.
	is func(node string, b kafka.Broker) bool
	// running is an error where a node's process does not run; nil: nobody knows.
	running  func(ctx context.Context, node string) error
	external bool
	brokers  []kafka.Broker // of the nodes, in their order
	created  bool           // the topic may be there
}

var (
	_ system.Cluster = (*cluster)(nil)
	_ system.Closer  = (*cluster)(nil)
)

// Admin implements system.Cluster.
func (c *cluster) Admin() nemesis.Admin { return kafka.Admin{Cluster: c.Cluster} }

// Versions implements system.Cluster: Kafka's protocol has no request for it.
func (c *cluster) Versions() nemesis.Versions { return nil }

// Keys implements nemesis.Roles.
func (c *cluster) Keys() []string { return c.KeyNames() }

// Client implements system.Cluster.
func (c *cluster) Client(spec workloads.ClientSpec) system.Client {
	if c.spec.Client == KgoClient {
		return kafka.NewKgo(c.Cluster, spec, kafka.KgoConfig{Brokers: c.brokers, Resolve: c.resolve})
	}
	return kafka.NewClient(c.Cluster, spec)
}

// Setup implements system.Cluster: it finds out which broker each node is, waits
// until all answer and creates the run's topic. Nodes that the harness runs are given
// time to come up; a cluster that is there is not.
func (c *cluster) Setup(ctx context.Context) error {
	limit := c.v.duration(optReady)
	deadline := c.Clock.Now() + limit
	err := c.await(ctx, deadline, func() error { return c.identify(ctx) })
	if err == nil {
		err = c.await(ctx, deadline, func() error {
			if ok, why := c.Answers(ctx); !ok {
				return errors.New(why)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("the cluster is not ready: %w", err)
	}
	configs := map[string]string{optMinInSync: strconv.Itoa(minInSync(c.spec, c.v)), optUnclean: c.v[optUnclean]}
	creating, cancel := context.WithTimeout(ctx, max(deadline-c.Clock.Now(), time.Second))
	defer cancel()
	c.created = true
	if err := c.CreateTopic(creating, topic(c.spec.RunID), int32(len(c.Cluster.Keys)), int16(replication(c.spec, c.v)), configs, sortedKeys(configs)); err != nil {
		return err
	}
	err = c.await(ctx, deadline, func() error {
		if ok, why := c.Ready(ctx, replication(c.spec, c.v)); !ok {
			return errors.New(why)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("the partitions of topic %s did not become ready: %w", topic(c.spec.RunID), err)
	}
	return nil
}

// final is an error that waiting does not mend.
type final struct{ error }

func (c *cluster) await(ctx context.Context, deadline time.Duration, ready func() error) error {
	for {
		err := ready()
		if err == nil {
			return nil
		}
		var f final
		if errors.As(err, &f) {
			return f.error
		}
		if c.running != nil {
			for _, node := range c.spec.Nodes {
				if dead := c.running(ctx, node); dead != nil {
					return fmt.Errorf("%s: %w", node, dead)
				}
			}
		}
		if c.Clock.Now() >= deadline {
			return fmt.Errorf("after %s: %w; --set %s=… gives it more time", c.v.duration(optReady), err, optReady)
		}
		if serr := c.Clock.Sleep(ctx, 100*time.Millisecond); serr != nil {
			return fmt.Errorf("%w (%w)", serr, err)
		}
	}
}

// identify finds out which of the cluster's brokers the nodes are. A broker does not
// say which one it is: it is known by the address that it advertises.
func (c *cluster) identify(ctx context.Context) error {
	var all []kafka.Broker
	for _, node := range c.spec.Nodes {
		brokers, err := c.Brokers(ctx, node)
		if err != nil {
			if c.external {
				at, _ := c.resolve(node)
				return final{fmt.Errorf("%s at %s is reached and does not answer as a Kafka broker does: %w; is it the port for clients, without TLS and passwords?", node, at, cause(err))}
			}
			return err
		}
		if len(brokers) < len(c.spec.Nodes) {
			err = fmt.Errorf("%s sees %d brokers of %d", node, len(brokers), len(c.spec.Nodes))
		} else if len(brokers) > len(c.spec.Nodes) {
			err = fmt.Errorf("the cluster has %d brokers (%s), and %d are named: name every one", len(brokers), list(brokers), len(c.spec.Nodes))
		}
		if err != nil {
			if c.external {
				return final{fmt.Errorf("%w; the cluster advertises %s", err, list(brokers))}
			}
			return err
		}
		all = brokers
	}
	found := make([]kafka.Broker, len(c.spec.Nodes))
	ids := make([]int32, len(c.spec.Nodes))
	for i, node := range c.spec.Nodes {
		k := slices.IndexFunc(all, func(b kafka.Broker) bool { return c.is(node, b) })
		if k < 0 || slices.Contains(ids[:i], all[k].ID) {
			at, _ := c.resolve(node)
			return final{fmt.Errorf("%s at %s is none of the brokers that the cluster advertises, or named twice: give the addresses that it advertises: %s", node, at, list(all))}
		}
		found[i], ids[i] = all[k], all[k].ID
	}
	c.brokers, c.Cluster.IDs = found, ids
	return nil
}

// cause leaves out what stands before it already.
func cause(err error) error {
	var e *kafka.Error
	if errors.As(err, &e) {
		return fmt.Errorf("%s: %w", e.Reason, e.Err)
	}
	return err
}

func list(brokers []kafka.Broker) string {
	var all []string
	for _, b := range brokers {
		all = append(all, address(b))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

func address(b kafka.Broker) string { return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))) }

// same reports whether an address is the one that a broker advertises, by name or by
// what the names stand for here.
func same(at string, b kafka.Broker) bool {
	if at == address(b) {
		return true
	}
	host, port, err := net.SplitHostPort(at)
	if err != nil || port != strconv.Itoa(int(b.Port)) {
		return false
	}
	ours, err := net.LookupHost(host)
	if err != nil {
		return false
	}
	theirs, err := net.LookupHost(b.Host)
	return err == nil && slices.ContainsFunc(ours, func(ip string) bool { return slices.Contains(theirs, ip) })
}

// Close implements system.Closer: the topic goes, where the cluster stays.
func (c *cluster) Close(ctx context.Context) error {
	if !c.external || !c.created {
		return nil
	}
	if err := c.DeleteTopic(ctx, topic(c.spec.RunID)); err != nil {
		return fmt.Errorf("the topic of this run is left on the cluster, delete %s: %w", topic(c.spec.RunID), err)
	}
	return nil
}

// Drain implements system.Cluster.
func (c *cluster) Drain(ctx context.Context, limit time.Duration) (drains []history.Drain, replicas []history.Replica) {
	for _, r := range c.Cluster.Drain(ctx, limit) {
		drains = append(drains, r.Drain)
		replicas = append(replicas, r.Replicas...)
	}
	return drains, replicas
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
