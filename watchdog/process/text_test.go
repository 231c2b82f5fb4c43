package process

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

func TestSplit(t *testing.T) {
	for _, c := range []struct {
		command string
		words   []string
	}{
		{"", nil},
		{" \t\n ", nil},
		{"python index.py", []string{"python", "index.py"}},
		{"  node\t index.js  ", []string{"node", "index.js"}},
		{`sh -c 'cat; echo "done"'`, []string{"sh", "-c", `cat; echo "done"`}},
		{`a "b c" d`, []string{"a", "b c", "d"}},
		{`a"b c"d'e f'g`, []string{"ab cde fg"}},
		{`'' ""`, []string{"", ""}},
		{`a\ b \\ \" \'`, []string{"a b", `\`, `"`, `'`}},
		{`"\$ \" \\ \a \` + "`" + `"`, []string{`$ " \ \a ` + "`"}},
		{`'\a\'`, []string{`\a\`}},
		{"a\\\nb \\\n c", []string{"ab", "c"}},
		{"\"a\\\nb\nc\"", []string{"ab\nc"}},
		{"'a\\\nb'", []string{"a\\\nb"}},
		{"a '\n' b", []string{"a", "\n", "b"}},
		{"größe '日本' \xff", []string{"größe", "日本", "\xff"}},
		{`a#b c='d e'`, []string{"a#b", "c=d e"}},
	} {
		got, err := Split(c.command)
		if err != nil || !slices.Equal(got, c.words) {
			t.Errorf("%q: %q, %v, want %q", c.command, got, err, c.words)
		}
		// The shell agrees.
		out, err := exec.Command("sh", "-c", `printf '%s\0' `+strings.Trim(c.command, " \t\n")).Output()
		if err != nil {
			t.Fatal(err)
		}
		theirs := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		if len(c.words) > 0 && !slices.Equal(theirs, c.words) {
			t.Errorf("%q: sh says %q, want %q", c.command, theirs, c.words)
		}
	}
	// Not expanded, and no operators.
	got, err := Split(`$HOME * ~ a|b >c & ;#d $(x)`)
	if want := []string{"$HOME", "*", "~", "a|b", ">c", "&", ";#d", "$(x)"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSplitRefuses(t *testing.T) {
	for command, want := range map[string]error{
		`sh -c "exit 1`: errQuote,
		`it's`:          errQuote,
		`"a\"`:          errQuote,
		`"a\`:           errQuote,
		`a\`:            errBackslash,
		"a\x00b":        errNUL,
		"'\x00'":        errNUL,
		"\\\x00":        errNUL,
		"\"\\\x00\"":    errNUL,
	} {
		if words, err := Split(command); !errors.Is(err, want) || words != nil {
			t.Errorf("%q: %q, %v, want %v", command, words, err, want)
		}
	}
}

// Words that are quoted come back as they were, whatever they hold.
func FuzzSplit(f *testing.F) {
	for _, seed := range []string{"a b", `a "b c" 'd e' f\ g`, "'", `\`, "\"\\\n\"", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, command string) {
		words, err := Split(command)
		if err != nil {
			if words != nil {
				t.Fatalf("%q with %v", words, err)
			}
			return
		}
		var again []string
		for i, w := range words {
			if strings.ContainsRune(w, 0) {
				t.Fatalf("%q: word %d holds a NUL", command, i)
			}
			if i%2 == 0 {
				again = append(again, `'`+strings.ReplaceAll(w, `'`, `'\''`)+`'`)
			} else {
				again = append(again, `"`+strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(w)+`"`)
			}
		}
		got, err := Split(strings.Join(again, "\t "))
		if err != nil || !slices.Equal(got, words) {
			t.Fatalf("%q: %q, then %q, %v", command, words, got, err)
		}
	})
}

// writes keeps every Write apart.
type writes struct{ all []string }

func (w *writes) Write(p []byte) (int, error) {
	w.all = append(w.all, string(p))
	return len(p), nil
}

func TestCopyLines(t *testing.T) {
	mark := func(dst, line []byte) []byte {
		return append(append(append(dst, '<'), line...), ">\n"...)
	}
	for _, c := range []struct {
		name, in string
		max      int
		format   func(dst, line []byte) []byte
		want     []string
	}{
		{"nothing", "", 8, nil, nil},
		{"lines", "a\nbc\n\nd\n", 8, nil, []string{"a\n", "bc\n", "\n", "d\n"}},
		{"last line without newline", "a\nb", 8, nil, []string{"a\n", "b\n"}},
		{"just as long", "12345678\n12345678\n", 8, nil, []string{"12345678\n", "12345678\n"}},
		{"one too long", "123456789\nx\n", 8, nil, []string{"12345678\n", "9\n", "x\n"}},
		{"twice as long", "1234567812345678\nx\n", 8, nil, []string{"12345678\n", "12345678\n", "x\n"}},
		{"long and cut off", "1234567812", 8, nil, []string{"12345678\n", "12\n"}},
		{"format", "a\n\nb", 1, mark, []string{"<a>\n", "<>\n", "<b>\n"}},
		{"bytes as they are", "\xff\x00\r\n", 8, nil, []string{"\xff\x00\r\n"}},
		{"no bound", strings.Repeat("x", 1<<20) + "\ny", -1, nil, []string{strings.Repeat("x", 1<<20) + "\n", "y\n"}},
	} {
		for how, src := range map[string]io.Reader{
			"at once":        strings.NewReader(c.in),
			"byte by byte":   iotest.OneByteReader(strings.NewReader(c.in)),
			"EOF with bytes": iotest.DataErrReader(strings.NewReader(c.in)),
		} {
			var w writes
			if err := CopyLines(&w, src, c.max, c.format); err != nil || !slices.Equal(w.all, c.want) {
				t.Errorf("%s, %s: %d writes %.200q, %v, want %.200q", c.name, how, len(w.all), w.all, err, c.want)
			}
		}
	}
}

// A handler that logs a line without end costs what a line may cost.
func TestCopyLinesOfEndlessLine(t *testing.T) {
	const length, most = 100 << 20, 64 << 10
	line := bytes.Repeat([]byte("x"), 1<<20)
	var pieces, total int
	count := func(dst, line []byte) []byte {
		if len(line) > most {
			t.Fatalf("a piece of %d bytes", len(line))
		}
		pieces++
		total += len(line)
		return dst
	}
	got := testing.AllocsPerRun(1, func() {
		pieces, total = 0, 0
		if err := CopyLines(io.Discard, io.LimitReader(forever(line), length), most, count); err != nil {
			t.Fatal(err)
		}
	})
	if total != length || pieces != length/most {
		t.Errorf("%d bytes in %d pieces", total, pieces)
	}
	if got > 50 {
		t.Errorf("%v allocations", got)
	}
}

type forever []byte

func (b forever) Read(p []byte) (int, error) { return copy(p, b), nil }

// Whoever logs must not block because the log has nowhere to go.
func TestCopyLinesReadsOnWhenTheSinkFails(t *testing.T) {
	broken := errors.New("broken sink")
	src := strings.NewReader("a\nb\nc\n" + strings.Repeat("d", 1<<20))
	w := &failing{err: broken, after: 1}
	if err := CopyLines(w, src, 100, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
	if src.Len() > 0 || w.writes != 2 {
		t.Errorf("%d bytes unread, %d writes", src.Len(), w.writes)
	}
}

type failing struct {
	err           error
	after, writes int
}

func (f *failing) Write(p []byte) (int, error) {
	f.writes++
	if f.writes > f.after {
		return 0, f.err
	}
	return len(p), nil
}

func TestCopyLinesReturnsWhatTheSourceSaid(t *testing.T) {
	broken := errors.New("broken source")
	var w writes
	err := CopyLines(&w, io.MultiReader(strings.NewReader("a\nb"), iotest.ErrReader(broken)), 8, nil)
	if !errors.Is(err, broken) || !slices.Equal(w.all, []string{"a\n", "b\n"}) {
		t.Errorf("%q, %v", w.all, err)
	}
}

// However the bytes come, the lines are those of a plain split.
func FuzzCopyLines(f *testing.F) {
	f.Add([]byte("a\nbc\n\nd"), 3, uint64(1))
	f.Add([]byte("12345678\n123456789\n"), 8, uint64(2))
	f.Add([]byte(strings.Repeat("x", 40000)+"\n"), 0, uint64(3))
	f.Fuzz(func(t *testing.T, in []byte, most int, seed uint64) {
		var want []string
		for _, line := range bytes.SplitAfter(in, []byte("\n")) {
			text := strings.TrimSuffix(string(line), "\n")
			if len(line) == 0 {
				continue
			}
			for most > 0 && len(text) > most {
				want = append(want, text[:most]+"\n")
				text = text[most:]
			}
			want = append(want, text+"\n")
		}
		random := rand.New(rand.NewPCG(seed, 0))
		var w writes
		err := CopyLines(&w, &chunks{in, random}, most, nil)
		if err != nil || !slices.Equal(w.all, want) {
			t.Fatalf("%q, %v, want %q", w.all, err, want)
		}
	})
}

// chunks hands out its bytes in pieces of any size.
type chunks struct {
	left   []byte
	random *rand.Rand
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.random.IntN(len(c.left)+1))], c.left)
	c.left = c.left[n:]
	return n, nil
}
