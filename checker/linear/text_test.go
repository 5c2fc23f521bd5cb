package linear

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDigests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.String().Draw(t, "a"), rapid.String().Draw(t, "b")
		require.Equal(t, digestOf(a+b), digestOf(a).and(digestOf(b)))
		require.Equal(t, digestOf(a), digestFrom(digestOf(a).String()))
		require.Equal(t, a == b, digestOf(a) == digestOf(b))
	})
	require.Equal(t, digestOf(""), digestFrom(""))
	require.NotEqual(t, digestOf("\x00"), digestOf(""))
}

func TestSearchText(t *testing.T) {
	for _, c := range []struct {
		name string
		ops  []TextOp
		want Verdict
	}{
		{"nothing", nil, Legal},
		{"unset", []TextOp{{0, 1, Look, ""}}, Legal},
		{"appended", []TextOp{{0, 1, Put, "a"}, {2, 3, Concat, "b"}, {4, 5, Look, "ab"}}, Legal},
		{"in another order", []TextOp{{0, 1, Concat, "a"}, {2, 3, Concat, "b"}, {4, 5, Look, "ba"}}, Illegal},
		{"at once", []TextOp{{0, 3, Concat, "a"}, {2, 3, Concat, "b"}, {4, 5, Look, "ba"}}, Legal},
		{"unanswered and seen", []TextOp{{0, Never, Concat, "a"}, {4, 5, Look, ""}, {6, 7, Look, "a"}}, Legal},
		{"unanswered and gone", []TextOp{{0, Never, Concat, "a"}, {4, 5, Look, "a"}, {6, 7, Look, ""}}, Illegal},
		{"an unanswered look", []TextOp{{0, Never, Look, "never"}}, Legal},
	} {
		r, err := SearchText(t.Context(), c.ops, time.Minute)
		require.NoError(t, err)
		require.Equal(t, c.want, r.Verdict, c.name)
	}
	_, err := SearchText(t.Context(), []TextOp{{2, 1, Look, ""}}, 0)
	require.ErrorContains(t, err, "operation 0 returned at 1, before its call at 2")
}

func TestCompareAndSet(t *testing.T) {
	swap := func(from int64, to uint64, call, ret int64) Op {
		return Op{Kind: Swap, Offset: from, Value: to, Call: call, Return: ret}
	}
	refused := func(from int64, call, ret int64) Op { return Op{Kind: Refused, Offset: from, Call: call, Return: ret} }
	for _, c := range []struct {
		name string
		ops  []Op
		want Verdict
	}{
		{"done", hist(set(1, 0, 1), swap(1, 2, 2, 3), saw(2, 4, 5)), Legal},
		{"not done", hist(set(1, 0, 1), swap(1, 2, 2, 3), saw(1, 4, 5)), Illegal},
		{"of another value", hist(set(1, 0, 1), swap(3, 2, 2, 3)), Illegal},
		{"of nothing", hist(swap(3, 2, 2, 3)), Illegal},
		{"refused rightly", hist(set(1, 0, 1), refused(3, 2, 3)), Legal},
		{"refused wrongly", hist(set(1, 0, 1), refused(1, 2, 3)), Illegal},
		{"unanswered and done", hist(set(1, 0, 1), swap(1, 2, 2, Never), saw(1, 4, 5), saw(2, 6, 7)), Legal},
		{"unanswered and impossible", hist(set(1, 0, 1), swap(3, 2, 2, Never), saw(1, 4, 5)), Legal},
		{"unanswered and twice", hist(set(1, 0, 1), swap(1, 2, 2, Never), saw(2, 4, 5), saw(1, 6, 7)), Illegal},
	} {
		r, err := Decide(t.Context(), CAS, c.ops, time.Minute)
		require.NoError(t, err)
		require.Equal(t, c.want, r.Verdict, c.name)
		require.Equal(t, "Porcupine", r.Procedure)
	}
}
