package jepsen

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/linear"
)

func TestQueue(t *testing.T) {
	h, err := Read(strings.NewReader(`{:index 0, :type :invoke, :f :enqueue, :value 4, :process 0, :time 10}
{:index 1, :type :invoke, :f :enqueue, :value 5, :process 1, :time 11}
{:index 2, :type :info, :f :enqueue, :value 4, :process 0, :time 12, :error "timeout"}
{:index 3, :type :fail, :f :enqueue, :value 5, :process 1, :time 13}
{:index 4, :type :invoke, :f :dequeue, :value nil, :process 1, :time 14}
{:index 5, :type :info, :f :kill, :value nil, :process :nemesis, :time 15}
{:index 6, :type :ok, :f :dequeue, :value nil, :process 1, :time 16}
{:index 7, :type :invoke, :f :dequeue, :value nil, :process 1, :time 17}
{:index 8, :type :invoke, :f :drain, :value nil, :process 2, :time 18}
{:index 9, :type :ok, :f :drain, :value [4 6], :process 2, :time 19}
`), linear.Queue)
	require.NoError(t, err)
	require.Equal(t, []History{{"", []linear.Op{
		{Kind: linear.Enqueue, Value: 4, Call: 10, Return: linear.Never},
		{Kind: linear.Empty, Call: 14, Return: 16},
		{Kind: linear.Dequeue, Call: 17, Return: linear.Never},
		{Kind: linear.Dequeue, Value: 4, Call: 18, Return: 19},
		{Kind: linear.Dequeue, Value: 6, Call: 18, Return: 19},
	}}}, h)
}

func TestRegister(t *testing.T) {
	h, err := Read(strings.NewReader(`[{:type :invoke, :f :write, :value 3, :process 0}
{:type :invoke, :f :read, :value nil, :process 1} {:type :ok, :f :read, :value nil, :process 1}
{:type :invoke, :f :read, :value nil, :process 1} {:type :info, :f :read, :value nil, :process 1}
{:type :ok, :f :write, :value 3, :process 0} {:type :invoke, :f :read, :value nil, :process 2} {:type :ok, :f :read, :value 3, :process 2}]`), linear.Register)
	require.NoError(t, err)
	require.Equal(t, []History{{"", []linear.Op{
		{Kind: linear.Write, Value: 3, Call: 0, Return: 5},
		{Kind: linear.Read, Value: linear.Unset, Call: 1, Return: 2},
		{Kind: linear.Read, Value: 3, Call: 6, Return: 7},
	}}}, h)
	h, err = Read(strings.NewReader(`{:type :invoke, :f :write, :value [:b 3], :process 0} {:type :invoke, :f :read, :value [1 nil], :process 1} {:type :ok, :f :read, :value [1 2], :process 1}`), linear.Register)
	require.NoError(t, err)
	require.Equal(t, []History{
		{"1", []linear.Op{{Kind: linear.Read, Value: 2, Call: 1, Return: 2}}},
		{":b", []linear.Op{{Kind: linear.Write, Value: 3, Call: 0, Return: linear.Never}}},
	}, h)
}

func TestKafka(t *testing.T) {
	h, err := Read(strings.NewReader(`{:index 0, :time 12, :type :invoke, :process 3, :f :send, :value [[:send 0 17]]}
{:index 1, :time 15, :type :ok, :process 3, :f :send, :value [[:send 0 [4 17]]]}
{:index 2, :time 15, :type :invoke, :process 3, :f :send, :value [[:send 1 18]]}
{:index 3, :time 16, :type :invoke, :process 5, :f :assign, :value [0]}
{:index 4, :time 16, :type :ok, :process 5, :f :assign, :value [0]}
{:index 5, :time 17, :type :invoke, :process 5, :f :poll, :value [[:poll]]}
{:index 6, :time 18, :type :ok, :process 5, :f :poll, :value [[:poll {0 [[4 17] [5 "sentinel@5"]], 1 [[0 18]]}]]}
{:index 7, :time 19, :type :info, :process 3, :f :send, :value [[:send 1 18]]}
{:index 8, :time 20, :type :invoke, :process 3, :f :send, :value [[:send 0 19]]}
{:index 9, :time 21, :type :ok, :process 3, :f :send, :value [[:send 0 [nil 19]]]}
`), linear.SparseLog)
	require.NoError(t, err)
	require.Equal(t, []History{
		{"0", []linear.Op{
			{Kind: linear.Append, Value: 17, Offset: 4, Call: 12, Return: 15},
			{Kind: linear.Get, Value: 17, Offset: 4, Call: 17, Return: 18},
			{Kind: linear.Append, Value: 19, Offset: linear.NoOffset, Call: 20, Return: 21},
		}},
		{"1", []linear.Op{
			{Kind: linear.Append, Value: 18, Offset: linear.NoOffset, Call: 15, Return: linear.Never}, {Kind: linear.Get, Value: 18, Offset: 0, Call: 17, Return: 18},
		}},
	}, h)
}

func TestBadInput(t *testing.T) {
	const enq = `{:type :invoke, :f :enqueue, :value 1, :process 0, :time 5} `
	for text, in := range map[string]struct {
		object linear.Object
		edn    string
	}{
		"line 1 is no map of a Jepsen history":                               {linear.Queue, `(1 2)`},
		"line 2 is no map of a Jepsen history":                               {linear.Queue, enq + `{:type `},
		"line 2: process 0 calls :enqueue, and its :enqueue of line 1 has":   {linear.Queue, enq + enq},
		"line 1: :ok ends :enqueue of process 7, which called nothing":       {linear.Queue, `{:type :ok, :f :enqueue, :value 1, :process 7}`},
		"line 2: its process is in :enqueue since line 1, and this ends":     {linear.Queue, enq + `{:type :ok, :f :dequeue, :value 1, :process 0, :time 6}`},
		"line 2: it ends at 4, before its call at 5 (line 1)":                {linear.Queue, enq + `{:type :ok, :f :enqueue, :value 1, :process 0, :time 4}`},
		"line 1: :type :done is none of :invoke, :ok, :fail and :info":       {linear.Queue, `{:type :done, :f :enqueue, :process 0}`},
		"line 1: the value -3 is no integer from 0 on":                       {linear.Queue, `{:type :invoke, :f :enqueue, :value -3, :process 0}`},
		"line 1: the value a is no integer":                                  {linear.Queue, `{:type :invoke, :f :enqueue, :value "a", :process 0}`},
		"line 1: a :drain ends with the vector":                              {linear.Queue, `{:type :invoke, :f :drain, :process 0}`},
		"line 1: :cas is no operation on a register that is decided here":    {linear.Register, `{:type :invoke, :f :cas, :value [1 2], :process 0}`},
		"line 2: the value 4 is no pair of a key and a value, as that of":    {linear.Register, `{:type :invoke, :f :write, :value [1 2], :process 0} {:type :ok, :f :write, :value 4, :process 0}`},
		"line 1: the value 7 is no vector of :send and :poll":                {linear.Log, `{:type :invoke, :f :send, :value 7, :process 0}`},
		"line 1: [:send 1] is neither [:send key record] nor":                {linear.Log, `{:type :invoke, :f :send, :value [[:send 1]], :process 0}`},
		"line 2: 18 was polled without its offset":                           {linear.Log, `{:type :invoke, :f :poll, :value [[:poll]], :process 0} {:type :ok, :f :poll, :value [[:poll {1 [18]}]], :process 0}`},
		"line 2: [1 2 3] is no pair of an offset and a value":                {linear.Log, `{:type :invoke, :f :poll, :value [[:poll]], :process 0} {:type :ok, :f :poll, :value [[:poll {1 [[1 2 3]]}]], :process 0}`},
		"line 2: the :poll 5 is no map from keys to records":                 {linear.Log, `{:type :invoke, :f :poll, :value [[:poll]], :process 0} {:type :ok, :f :poll, :value [[:poll 5]], :process 0}`},
		"this is no vector of a Jepsen history's maps":                       {linear.Log, `[{:type :invoke} 3]`},
		"line 2: 5 is no vector of records":                                  {linear.Log, `{:type :invoke, :f :poll, :value [[:poll]], :process 0} {:type :ok, :f :poll, :value [[:poll {1 5}]], :process 0}`},
		"line 1: the value [1] is no pair of a key and a value":              {linear.Register, `{:type :invoke, :f :write, :value [1], :process 0}`},
		"line 2: -1 is no offset":                                            {linear.Log, `{:type :invoke, :f :poll, :value [[:poll]], :process 0} {:type :ok, :f :poll, :value [[:poll {1 [[-1 2]]}]], :process 0}`},
		"line 1: the value true is no integer from 0 on":                     {linear.Register, `{:type :invoke, :f :write, :value true, :process 0}`},
		"line 1: :enqueue is no operation on a register that is decided her": {linear.Register, enq},
	} {
		_, err := Read(strings.NewReader(in.edn), in.object)
		require.ErrorContains(t, err, text)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{:type :invoke, :f :enqueue, :value 1, :process 0, :time 5} {:type :ok, :f :enqueue, :value 1, :process 0, :time 6}`)
	f.Add(`[{:type :invoke, :f :send, :value [[:send 0 17]], :process 1} {:type :ok, :f :poll, :value [[:poll {0 [[4 17]]}]], :process 1}]`)
	f.Fuzz(func(t *testing.T, text string) {
		for _, object := range []linear.Object{linear.Queue, linear.Log, linear.SparseLog, linear.Register} {
			histories, err := Read(strings.NewReader(text), object)
			if err != nil {
				continue
			}
			for _, h := range histories {
				if _, err := linear.Exact(object, h.Ops); err != nil {
					t.Fatalf("what was read is no history of a %s: %v", object, err)
				}
			}
		}
	})
}
