package guard

import (
	"math"
	"testing"
)

func TestMarks(t *testing.T) {
	for _, c := range []struct {
		text string
		want Mark
		back string
	}{
		{"90%", Mark{percent: 90}, "90%"},
		{"100%", Mark{percent: 100}, "100%"},
		{"0.5%", Mark{percent: 0.5}, "0.5%"},
		{"99.99%", Mark{percent: 99.99}, "99.99%"},
		{"090%", Mark{percent: 90}, "90%"},
		{"200Mi", Mark{absolute: 200 << 20}, "200Mi"},
		{"1024Ki", Mark{absolute: 1 << 20}, "1Mi"},
		{"1Ti", Mark{absolute: 1 << 40}, "1Ti"},
		{"2Gi", Mark{absolute: 2 << 30}, "2Gi"},
		{"3k", Mark{absolute: 3000}, "3k"},
		{"3K", Mark{absolute: 3000}, "3k"},
		{"5M", Mark{absolute: 5e6}, "5M"},
		{"5G", Mark{absolute: 5e9}, "5G"},
		{"5T", Mark{absolute: 5e12}, "5T"},
		{"900", Mark{absolute: 900}, "900"},
		{"1", Mark{absolute: 1}, "1"},
		{"9223372036854775807", Mark{absolute: math.MaxInt64}, "9223372036854775807"},
		{"off", Mark{}, "off"},
	} {
		for _, parse := range []func(string) (Mark, error){ParseUse, ParseFree} {
			m, err := parse(c.text)
			if err != nil || m != c.want || m.String() != c.back {
				t.Errorf("%q: %+v, %q, %v", c.text, m, m.String(), err)
			}
			if again, err := parse(m.String()); err != nil || again != m {
				t.Errorf("%q is read as %+v, %v", m.String(), again, err)
			}
		}
		if c.want.Off() != (c.text == "off") || c.want.Absolute() != (c.want.absolute > 0) {
			t.Errorf("%q: off %v, absolute %v", c.text, c.want.Off(), c.want.Absolute())
		}
	}
}

func TestNonsenseMarks(t *testing.T) {
	for _, text := range []string{
		"", " ", "abc", "-1", "+1", "0", "0%", "0.0%", "-0%", "-1%", "120%", "100.1%", "90 %", " 90%", "90% ", "%", ".%",
		"90%%", "NaN%", "Inf%", "1e1%", "0x10%", "1_0%", "9,5%", "1.2.3%", "٩%", "0.5", "1e3", "0x10", "1_000", "Mi", "-1Mi", "0Mi",
		"1.5Gi", "1 Mi", "1MiB", "1mi", "1Pi", "9223372036854775808", "9223372036854775807k", "8388608Ti", "OFF", "Off", "none", "90%off", "1\x00", "1\n",
	} {
		if m, err := ParseUse(text); err == nil || err.Error() != "a share such as 90%, a size such as 200Mi, or off" || m != (Mark{}) {
			t.Errorf("use %q: %+v, %v", text, m, err)
		}
		if m, err := ParseFree(text); err == nil || err.Error() != "a share such as 1%, a size such as 256Mi, or off" || m != (Mark{}) {
			t.Errorf("free %q: %+v, %v", text, m, err)
		}
	}
}

func TestMarkOfALimit(t *testing.T) {
	const all = math.MaxUint64
	for _, c := range []struct {
		text  string
		limit uint64
		use   uint64
		ok    bool
		free  uint64
	}{
		{"90%", 1000, 900, true, 900},
		{"29%", 100, 29, true, 29}, // 0.29*100 is 28.999…
		{"90%", 10, 9, true, 9},
		{"90%", 1, 1, true, 1},
		{"1%", 3, 1, true, 0}, // some use is always allowed
		{"90%", 0, 0, false, 0},
		{"100%", all, all, true, all},
		{"100%", all - 1, all - 1, true, all - 1},
		{"50%", all, 1 << 63, true, 1 << 63},
		{"900", 0, 900, true, 900},
		{"900", 10, 900, true, 900},
		{"off", 1000, 0, false, 0},
	} {
		m, err := ParseUse(c.text)
		if err != nil {
			t.Fatal(err)
		}
		if use, ok := m.use(c.limit); use != c.use || ok != c.ok {
			t.Errorf("%s of %d: %d, %v, want %d, %v", c.text, c.limit, use, ok, c.use, c.ok)
		}
		if free := m.free(c.limit); free != c.free {
			t.Errorf("%s of %d: %d free, want %d", c.text, c.limit, free, c.free)
		}
	}
}
