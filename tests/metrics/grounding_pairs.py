"""Sources, and pairs of fluent answers of which the second has one number changed, or two of the source's numbers swapped."""

from __future__ import annotations

from distill.cases.case_set import Source

RADIO = Source("D:\\docs\\X100_manual.pdf", """# X100 transceiver

The X100 transmits 5 W in normal mode and 20 W in boost mode. Its receiver draws 0.8 A at 28 VDC +/- 0.5 V, the transmitter
3.4 A. The antenna gain is 12.5 dBi at 2.4 GHz and falls by 3 dB at the edges of the band. Boost mode is limited to 30 seconds,
after which the unit cools for 2 minutes. The unit weighs 3.2 kg and meets MIL-STD-810H. It is not rated for Class B areas.

| Model | Gain (dBi) | Weight | Range |
|-------|-----------:|--------|-------|
| X100  | 12.5       | 3.2 kg | 40 km |
| X200  | 14         | 5 kg   | 65 km |
| X300  | 17.5       | 7.1 kg | 90 km |
""")
CARE = Source("D:\\docs\\maintenance.docx", """## 4.2 Service intervals

Inspect the fan every 6 months. Replace the air filter after 2,000 hours of operation, or after 500 hours in dusty air. The
battery pack holds 48 cells and must be stored between 10 C and 25 C. Torque the four mounting bolts to 12 Nm; the ground strap
takes 4.5 Nm. Calibration is valid for 12 months. About 15% of failures come from the connector J7, 40 % from the fan.
""")
LINK = Source("/srv/docs/link_budget.md", """
The path loss at 18 GHz over 36,000 km is 208.7 dB. The transmitter delivers 43 dBm into the feed.
The receiver needs at least -97 dBm for a bit error rate below 1e-6. With a data rate of 10 Mbit/s the margin is 6 dB; at
40 Mbit/s it shrinks to 1.5 dB. Rain at 25 mm/h costs another 8 dB. The figure of merit G/T is 14.2 dB/K.
""")
CODE = Source("settings.txt", """[server]
timeout = 30
retries = 5
max_connections = 200
port = 8443

The cache holds 512 MB. Each worker uses 4 threads, and the queue accepts up to 10,000 jobs. Logs are kept for 90 days.
""")
RULES = Source("security_policy.pdf", """
Passwords have at least 14 characters and expire after 60 days. Five failed logins lock an account for 30 minutes.
Audit records are kept for three years under NIST SP 800-53. Data at rest is encrypted with AES-256; TLS 1.3 protects
it in transit.
Privileged sessions end after 15 minutes without input, ordinary ones after 45 minutes.
""")
PUMP = Source("pump.html", """
The P-40 pump delivers 120 l/min at 3.5 bar. Its motor turns at 2,900 rpm and takes 7.5 kW from a 400 V supply. The oil
temperature must stay below 85 \u00b0C; an alarm sounds at 80 \u00b0C. The P-60 pump delivers 180 l/min at 4 bar with a
motor of 11 kW. Vibration above 7.1 mm/s stops either pump. The seal kit is 4711-A, the bearing set 4712-B.
""")

PAIRS = [
    # (source, question, right, wrong)
    (RADIO, "How much power does the X100 transmit?",
     "In normal mode the X100 sends 5 W [Source 1].",
     "In normal mode the X100 sends 6 W [Source 1]."),
    (RADIO, "How much power does the X100 transmit?",
     "The X100 transmits 20 W in boost mode.",
     "The X100 transmits 5 W in boost mode."),
    (RADIO, "How much power does the X100 transmit?",
     "It sends 5 W normally and 20 W when boosted.",
     "It sends 20 W normally and 5 W when boosted."),
    (RADIO, "What current does the X100 draw?", "The receiver draws 0.8 A.", "The receiver draws 3.4 A."),
    (RADIO, "What current does the X100 draw?",
     "The transmitter draws 3.4 A, the receiver 0.8 A.",
     "The transmitter draws 4.3 A, the receiver 0.8 A."),
    (RADIO, "What is the supply voltage?",
     "The supply is 28 VDC with a tolerance of +/- 0.5 V.",
     "The supply is 24 VDC with a tolerance of +/- 0.5 V."),
    (RADIO, "What is the supply voltage?", "The supply is 28 V DC \u00b1 0.5 V.", "The supply is 28 V DC \u00b1 0.05 V."),
    (RADIO, "What is the gain?",
     "The antenna has a gain of 12.5 dBi at 2400 MHz.",
     "The antenna has a gain of 12.5 dBi at 2450 MHz."),
    (RADIO, "What is the gain?",
     "The antenna gain of the X100 is **12.5 dBi**.",
     "The antenna gain of the X100 is **14 dBi**."),
    (RADIO, "What is the gain of the X200?", "The X200 has a gain of 14 dBi.", "The X200 has a gain of 17.5 dBi."),
    (RADIO, "What is the gain of the X200?", "14 dBi [Source 1].", "17.5 dBi [Source 1]."),
    (RADIO, "How heavy is each model?",
     "The X300 weighs 7.1 kg and the X200 weighs 5 kg.",
     "The X300 weighs 5 kg and the X200 weighs 7.1 kg."),
    (RADIO, "What range has the X300?", "The X300 reaches a range of 90 km.", "The X300 reaches a range of 65 km."),
    (RADIO, "How long may boost mode last?",
     "Boost mode may last 30 seconds, then the unit must cool for 2 minutes.",
     "Boost mode may last 30 seconds, then the unit must cool for 3 minutes."),
    (RADIO, "How long may boost mode last?",
     "Boost mode is limited to half a minute (30 s).",
     "Boost mode is limited to 2 minutes."),
    (RADIO, "Which standard does it meet?", "The unit meets MIL-STD-810H.", "The unit meets MIL-STD-461G."),
    (RADIO, "What happens at the band edges?",
     "At the band edges the gain falls by 3 dB.",
     "At the band edges the gain falls by 5 dB."),
    (RADIO, "How heavy is each model?",
     "| Model | Weight |\n|---|---|\n| X100 | 3.2 kg |\n| X200 | 5 kg |",
     "| Model | Weight |\n|---|---|\n| X100 | 5 kg |\n| X200 | 3.2 kg |"),
    (CARE, "How often is the fan inspected?",
     "The fan must be inspected every 6 months.",
     "The fan must be inspected every 12 months."),
    (CARE, "When is the filter replaced?",
     "The air filter is replaced after 2000 operating hours.",
     "The air filter is replaced after 2500 operating hours."),
    (CARE, "When is the filter replaced?",
     "In dusty air the filter lasts 500 hours.",
     "In dusty air the filter lasts 2,000 hours."),
    (CARE, "How is the battery stored?",
     "Store the battery pack at 10-25 \u00b0C.",
     "Store the battery pack at 10-35 \u00b0C."),
    (CARE, "How many cells are there?", "The battery pack holds 48 cells.", "The battery pack holds 84 cells."),
    (CARE, "Which torque is needed?",
     "The mounting bolts are torqued to 12 Nm and the ground strap to 4.5 Nm.",
     "The mounting bolts are torqued to 4.5 Nm and the ground strap to 12 Nm."),
    (CARE, "Which torque is needed?", "Use 4.5 Nm for the ground strap.", "Use 12 Nm for the ground strap."),
    (CARE, "How many bolts are there?", "There are four mounting bolts.", "There are six mounting bolts."),
    (CARE, "What causes failures?",
     "The fan causes 40 percent of the failures, the connector J7 15 percent.",
     "The fan causes 15 percent of the failures, the connector J7 40 percent."),
    (CARE, "What causes failures?",
     "About 15 % of failures come from connector J7.",
     "About 15 % of failures come from connector J9."),
    (LINK, "What is the path loss?",
     "The path loss over 36 000 km at 18 GHz is 208.7 dB.",
     "The path loss over 36 000 km at 18 GHz is 207.8 dB."),
    (LINK, "What is the path loss?",
     "At 18 GHz the path loss amounts to 208.7 dB.",
     "At 28 GHz the path loss amounts to 208.7 dB."),
    (LINK, "What level does the receiver need?",
     "The receiver needs at least -97 dBm.",
     "The receiver needs at least -79 dBm."),
    (LINK, "What level does the receiver need?",
     "The receiver needs at least \u221297 dBm.",
     "The receiver needs at least 43 dBm."),
    (LINK, "What is the margin?",
     "The margin is 6 dB at 10 Mbit/s and 1.5 dB at 40 Mbit/s.",
     "The margin is 1.5 dB at 10 Mbit/s and 6 dB at 40 Mbit/s."),
    (LINK, "What is the margin?",
     "At a data rate of 40 Mbps the margin shrinks to 1.5 dB.",
     "At a data rate of 40 Mbps the margin shrinks to 6 dB."),
    (LINK, "What does rain cost?", "Rain of 25 mm/h costs 8 dB more.", "Rain of 25 mm/h costs 6 dB more."),
    (LINK, "What is G/T?", "G/T is 14.2 dB/K.", "G/T is 12.4 dB/K."),
    (CODE, "Which timeout is set?", "The timeout is 30.", "The timeout is 200."),
    (CODE, "How many retries are there?", "`retries` is set to 5.", "`retries` is set to 30."),
    (CODE, "Which port is used?", "The server listens on port 8443.", "The server listens on port 8080."),
    (CODE, "How many connections are allowed?", "max_connections = 200", "max_connections = 512"),
    (CODE, "How large is the cache?",
     "The cache holds 512 MB, and each worker uses 4 threads.",
     "The cache holds 512 MB, and each worker uses 8 threads."),
    (CODE, "How many jobs fit?", "The queue accepts up to 10000 jobs.", "The queue accepts up to 1000 jobs."),
    (RULES, "How long must passwords be?", "Passwords need at least 14 characters.", "Passwords need at least 15 characters."),
    (RULES, "When do passwords expire?", "They expire after 60 days.", "They expire after 90 days."),
    (RULES, "What locks an account?",
     "After five failed logins the account is locked for 30 minutes.",
     "After three failed logins the account is locked for 30 minutes."),
    (RULES, "What locks an account?",
     "After 5 failed logins an account is locked for half an hour (30 minutes).",
     "After 5 failed logins an account is locked for 45 minutes."),
    (RULES, "When do sessions end?",
     "Privileged sessions end after 15 minutes, ordinary ones after 45 minutes.",
     "Privileged sessions end after 45 minutes, ordinary ones after 15 minutes."),
    (RULES, "How long are audit records kept?", "Audit records are kept for 3 years.", "Audit records are kept for 5 years."),
    (RULES, "How is data at rest protected?",
     "Data at rest is encrypted with AES-256.",
     "Data at rest is encrypted with AES-128."),
    (RULES, "How is data in transit protected?", "TLS 1.3 protects data in transit.", "TLS 1.2 protects data in transit."),
    (PUMP, "What does the P-40 deliver?", "The P-40 delivers 120 l/min at 3.5 bar.", "The P-40 delivers 180 l/min at 3.5 bar."),
    (PUMP, "What does the P-60 deliver?",
     "The P60 pump delivers 180 l/min at 4 bar.",
     "The P60 pump delivers 180 l/min at 3.5 bar."),
    (PUMP, "Which motor has the P-60?", "Its motor has 11 kW.", "Its motor has 7.5 kW."),
    (PUMP, "At which speed does the motor turn?", "The motor turns at 2900 rpm.", "The motor turns at 2800 rpm."),
    (PUMP, "What supply does the P-40 need?", "It takes 7500 W from a 400 V supply.", "It takes 7500 W from a 230 V supply."),
    (PUMP, "How hot may the oil get?",
     "The oil must stay below 85 degrees Celsius; the alarm comes at 80 C.",
     "The oil must stay below 80 degrees Celsius; the alarm comes at 85 C."),
    (PUMP, "What stops the pump?", "Vibration above 7.1 mm/s stops the pump.", "Vibration above 1.7 mm/s stops the pump."),
    (PUMP, "Which seal kit fits?", "The seal kit has the part number 4711-A.", "The seal kit has the part number 4712-A."),
]
