package workloads

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/faultline-mq/faultline/checker/history"
)

func TestPayload(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		run := rapid.String().Draw(t, "run")
		v := history.Value(rapid.Uint64().Draw(t, "value"))
		size := rapid.IntRange(0, 300).Draw(t, "size")
		b := Encode(run, v, size)
		require.Len(t, b, max(size, MinPayload))
		require.Equal(t, b, Encode(run, v, size))

		got, p := Decode(run, b)
		require.Equal(t, history.Good, p)
		require.Equal(t, v, got)

		got, p = Decode(run+"'", b)
		require.Equal(t, history.OtherRun, p)
		require.Zero(t, got)

		got, p = Decode(run, EncodeSentinel(run, v, size))
		require.Equal(t, history.Sentinel, p)
		require.Equal(t, v, got)
		_, p = Decode(run+"'", EncodeSentinel(run, v, size))
		require.Equal(t, history.OtherRun, p)

		bad := bytes.Clone(b)
		bad[rapid.IntRange(0, len(b)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
		got, p = Decode(run, bad)
		require.Equal(t, history.Altered, p)
		require.Zero(t, got)
		_, p = Decode(run, b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")])
		require.Equal(t, history.Altered, p)
		_, p = Decode(run, append(bytes.Clone(b), 0))
		require.Equal(t, history.Altered, p)
	})
}

func TestPayloadsDiffer(t *testing.T) {
	a := Encode("r", history.MakeValue(1, 1), 200)
	b := Encode("r", history.MakeValue(1, 2), 200)
	require.NotEqual(t, a[MinPayload:], b[MinPayload:], "the filler follows from the value")
	_, p := Decode("r", nil)
	require.Equal(t, history.Altered, p)
}

// The format is stored in logs that outlive a version of the harness.
func TestPayloadFormat(t *testing.T) {
	require.Equal(t,
		"464c4e316d"+"454349e422f05297"+"0000030000000007"+"00000021",
		hex.EncodeToString(Encode("r", history.MakeValue(3, 7), 33)[:checksumAt]))
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(Encode("run", history.MakeValue(1, 2), 64))
	f.Add(EncodeSentinel("run", 9, 0))
	f.Add(Encode("other", 9, 40))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, p := Decode("run", b)
		switch p {
		case history.Good:
			require.Equal(t, Encode("run", v, len(b))[:checksumAt], b[:checksumAt])
		case history.Sentinel:
			require.Equal(t, EncodeSentinel("run", v, len(b))[:checksumAt], b[:checksumAt])
		case history.OtherRun, history.Altered:
			require.Zero(t, v)
		default:
			t.Fatalf("unknown payload state %d", p)
		}
	})
}
