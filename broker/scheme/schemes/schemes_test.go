package schemes_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/schemes"
)

// TestKnown: every scheme is whole, has a page, and shares neither a name, nor an
// option, nor a number on the wire with another.
func TestKnown(t *testing.T) {
	numbers := map[uint8]reflect.Type{}
	types := map[reflect.Type]uint8{}
	for _, d := range schemes.Known() {
		require.NoError(t, d.Validate())
		require.FileExists(t, filepath.Join("..", "..", "..", "docs", "schemes", d.Name+".md"))
		for _, m := range d.Messages {
			kind := reflect.TypeOf(m.Type)
			require.Greater(t, m.Number, uint8(2), "those of the metadata quorum")
			require.Less(t, m.Number, uint8(255))
			if known, ok := numbers[m.Number]; ok {
				require.Equal(t, known, kind, "two types of number %d", m.Number)
			}
			if known, ok := types[kind]; ok {
				require.Equal(t, known, m.Number, "two numbers of %s", kind)
			}
			numbers[m.Number], types[kind] = kind, m.Number
		}
	}
	var own []string
	for _, o := range schemes.Options() {
		own = append(own, o.Name)
	}
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(own))), len(own), "two options of one name: %v", own)
	names := schemes.Names()
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(names))), len(names))
}

// TestPages: no page describes a scheme that does not exist.
func TestPages(t *testing.T) {
	pages, err := os.ReadDir(filepath.Join("..", "..", "..", "docs", "schemes"))
	require.NoError(t, err)
	for _, p := range pages {
		_, err := schemes.Lookup(p.Name()[:len(p.Name())-len(".md")])
		require.NoError(t, err)
	}
}

func TestLookup(t *testing.T) {
	_, err := schemes.Lookup("nosuch")
	require.ErrorContains(t, err, `unknown scheme "nosuch"`)
	for _, name := range schemes.Names() {
		require.ErrorContains(t, err, name)
		d, err := schemes.Lookup(name)
		require.NoError(t, err)
		require.Equal(t, name, d.Name)
	}
}

func TestValidate(t *testing.T) {
	whole := schemes.Known()[0]
	for _, c := range []struct {
		name  string
		spoil func(*scheme.Definition)
		want  string
	}{
		{"no name", func(d *scheme.Definition) { d.Name = "" }, "no name"},
		{"no factory", func(d *scheme.Definition) { d.New = nil }, "no factory"},
		{"authority", func(d *scheme.Definition) { d.Metadata = "oracle" }, "oracle"},
		{"election", func(d *scheme.Definition) { d.Election = "lot" }, "lot"},
		{"placement", func(d *scheme.Definition) { d.Replicas = "some" }, "some"},
		{"owner", func(d *scheme.Definition) { d.Options[0].Owner = "topic" }, "topic"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := whole
			d.Options = slices.Clone(d.Options)
			c.spoil(&d)
			require.ErrorContains(t, d.Validate(), c.want)
		})
	}
}

func TestResolve(t *testing.T) {
	v, err := schemes.Resolve(map[string]string{"profile": "kafka"})
	require.NoError(t, err)
	require.Equal(t, "30000", v.String("replica.lag.time.max.ms"))
	_, err = schemes.Resolve(map[string]string{"replica.lag.time.max.ms": "400"})
	require.ErrorContains(t, err, "replica.fetch.wait.max.ms")
	_, err = schemes.Resolve(map[string]string{"nosuch": "1"})
	require.ErrorContains(t, err, "replica.lag.time.max.ms", "options of schemes are known")
}

// TestOptions: every default and every value that is drawn is allowed, and what is
// drawn is no matter of one value alone.
func TestOptions(t *testing.T) {
	for _, o := range schemes.Options() {
		for _, value := range slices.Concat([]string{o.Default}, o.Draw) {
			if value != "" {
				_, err := schemes.Resolve(map[string]string{o.Name: value})
				require.NoError(t, err, o.Name)
			}
		}
		require.NotEqual(t, 1, len(o.Draw), o.Name)
		require.NotEmpty(t, o.Doc, o.Name)
		require.NotEmpty(t, o.Owner, o.Name)
	}
}
