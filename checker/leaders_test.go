package checker

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMastersAtOnce: where leaders have no epochs two masters at once are reported, and
// never judged.
func TestMastersAtOnce(t *testing.T) {
	for _, c := range []struct {
		name string
		text string
		want []string // nodes that became master beside another
	}{
		{name: "one after another", text: "event n1 leader at=10\nevent n2 leader at=50"},
		{name: "the old one died, and its last words were before", text: "event n1 leader at=10\nevent n1 isr at=40\nevent n2 leader at=50\nevent n1 start at=60 inc=i2"},
		{name: "the old one speaks later, and followed before", text: "event n1 leader at=10\nevent n1 follower at=60\nevent n2 leader at=50\nevent n1 isr at=70"},
		{name: "the old one stopped in order", text: "event n1 leader at=10\nevent n2 leader at=50\nevent n1 stop at=60"},
		{name: "the old one still speaks as master", text: "event n1 leader at=10\nevent n2 leader at=50\nevent n1 isr at=60", want: []string{"n2"}},
		{name: "it fences itself too late", text: "event n1 leader at=10\nevent n2 leader at=50\nevent n1 fenced at=60", want: []string{"n2"}},
		{name: "it fences itself in time", text: "event n1 leader at=10\nevent n1 fenced at=40\nevent n2 leader at=50\nevent n1 peer-down at=60"},
		{name: "three of them", text: "event n1 leader at=10\nevent n2 leader at=50\nevent n3 leader at=55\nevent n1 isr at=60\nevent n2 isr at=70", want: []string{"n2", "n3", "n3"}},
		{name: "the same node again", text: "event n1 leader at=10\nevent n1 leader at=20\nevent n1 isr at=30"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := parse(t, "log n1*\n"+c.text)
			h.Header.Contract.Epochs = false
			for i := range h.Events {
				h.Events[i].Epoch = -1
			}
			res, err := Run(t.Context(), h, Options{})
			require.NoError(t, err)
			i := slices.IndexFunc(res.Checks, func(k Check) bool { return k.Name == ClauseSplitBrain })
			var got []string
			for _, a := range res.Checks[i].Anomalies {
				require.Equal(t, ClassSplitBrain, a.Class)
				got = append(got, a.Node)
			}
			require.Equal(t, c.want, got)
			require.False(t, res.Checks[i].Promised)
			require.Equal(t, Valid, res.Checks[i].Verdict)
		})
	}
	h := parse(t, "log n1*\nevent n1 leader at=10\nevent n2 leader at=50\nevent n1 isr at=60")
	h.Header.Contract.Epochs = false
	h.Events[1].Uncertainty = 20e6
	res, err := Run(t.Context(), h, Options{})
	require.NoError(t, err)
	require.Zero(t, res.Anomalies[ClassSplitBrain], "a clock that is not certain enough proves nothing")
}
