package options_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/options"
)

func TestResolve(t *testing.T) {
	cases := []struct {
		name string
		set  map[string]string
		want map[string]string // of those resolved
		err  []string          // parts of the error
	}{
		{name: "defaults", want: map[string]string{"acks": "all", "min.insync.replicas": "2", "fsync": "always", "broker.session.timeout.ms": "1500", "unclean.leader.election.enable": "false"}},
		{name: "profile kafka", set: map[string]string{"profile": "kafka"}, want: map[string]string{"min.insync.replicas": "1", "broker.session.timeout.ms": "9000", "fsync": "always"}},
		{name: "set wins over profile", set: map[string]string{"profile": "kafka", "min.insync.replicas": "3"}, want: map[string]string{"min.insync.replicas": "3"}},
		{name: "unknown", set: map[string]string{"ack": "1"}, err: []string{`"ack"`, "known options", "acks"}},
		{name: "enum", set: map[string]string{"acks": "2"}, err: []string{`acks="2"`, "0, 1, all, -1"}},
		{name: "bool", set: map[string]string{"auto.create.topics.enable": "yes"}, err: []string{"true, false"}},
		{name: "no number", set: map[string]string{"partitions": "x"}, err: []string{"1 to 256"}},
		{name: "too small", set: map[string]string{"min.insync.replicas": "0"}, err: []string{"1 to 9"}},
		{name: "too large", set: map[string]string{"segment.bytes": "99999999999"}, err: []string{"bytes"}},
		{name: "overflow", set: map[string]string{"partitions": "99999999999999999999"}, err: []string{"1 to 256"}},
		{name: "session below heartbeat", set: map[string]string{"broker.session.timeout.ms": "300"}, err: []string{"broker.session.timeout.ms", "broker.heartbeat.interval.ms"}},
		{name: "the first of two errors, by name", set: map[string]string{"zz": "1", "aa": "1"}, err: []string{`"aa"`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			v, err := options.Resolve(c.set)
			if c.err != nil {
				require.Error(t, err)
				for _, part := range c.err {
					require.ErrorContains(t, err, part)
				}
				return
			}
			require.NoError(t, err)
			for name, want := range c.want {
				require.Equal(t, want, v.String(name), name)
			}
		})
	}
}

func TestTypes(t *testing.T) {
	v, err := options.Resolve(map[string]string{"acks": "1", "partitions": "7"})
	require.NoError(t, err)
	require.Equal(t, int16(1), v.Acks())
	require.Equal(t, 7, v.Int("partitions"))
	require.True(t, v.Bool("auto.create.topics.enable"))
	require.Equal(t, 1500*time.Millisecond, v.Duration("broker.session.timeout.ms"))
	for set, want := range map[string]int16{"0": 0, "all": -1, "-1": -1} {
		v, err := options.Resolve(map[string]string{"acks": set})
		require.NoError(t, err)
		require.Equal(t, want, v.Acks(), set)
	}
	m := v.Map()
	m["partitions"] = "9"
	require.Equal(t, 7, v.Int("partitions"), "Map is a copy")
}

// TestRegistry: every default is allowed, in both profiles; names are sorted and unique.
func TestRegistry(t *testing.T) {
	names := options.Names()
	require.True(t, slices.IsSorted(names))
	require.Equal(t, len(names), len(slices.Compact(slices.Clone(names))))
	for _, o := range options.All() {
		for _, value := range []string{o.Default, o.Kafka} {
			if value != "" {
				_, err := options.Resolve(map[string]string{"profile": "kafka", o.Name: value})
				if o.Name == "broker.session.timeout.ms" {
					_, err = options.Resolve(map[string]string{o.Name: value})
				}
				require.NoError(t, err, o.Name)
			}
		}
		require.NotEmpty(t, o.Doc, o.Name)
		require.NotEmpty(t, o.Owner, o.Name)
	}
}
