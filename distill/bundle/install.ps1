# Installs this bundle's models in Ollama:  powershell -ExecutionPolicy Bypass -File install.ps1
# Checks every file, asks one question, and only then gives the models their names. When something fails, nothing has changed.
$ErrorActionPreference = 'Stop'

$bundle = '@BUNDLE@'
$models = '@MODELS@' -split ' ' # name:Modelfile, the one to use first
$smoke = '@SMOKE@'
$suffix = '@TRIAL@'
$question = 'Source: the test pump runs at 24 volts. Question: at how many volts does the test pump run?'

$here = $PSScriptRoot
$joining = Join-Path $here "$bundle.joining"
$trial = @()
$failed = $false

# Windows PowerShell makes an error of whatever a program writes to stderr; only its exit code tells, in $LASTEXITCODE.
function Invoke-Ollama {
    $ErrorActionPreference = 'Continue'
    & ollama @args
}

function Invoke-OllamaSilently {
    $ErrorActionPreference = 'Continue'
    & ollama @args 2>&1 | Out-Null
}

function Test-Sums([string]$folder) {
    $sums = Join-Path $folder 'SHA256SUMS'
    if (-not (Test-Path -LiteralPath $sums)) { throw "$sums is missing: copy the whole bundle again" }
    $checked = 0
    foreach ($line in Get-Content -LiteralPath $sums) {
        $wanted, $file = $line -split ' [ *]', 2
        $path = Join-Path $folder $file
        if (-not (Test-Path -LiteralPath $path)) { throw "$path is missing: copy the whole bundle again" }
        $found = (Get-FileHash -LiteralPath $path -Algorithm SHA256).Hash
        if ($found -ne $wanted) { throw "$path is damaged: copy it again" }
        $checked++
    }
    if ($checked -eq 0) { throw "$sums is empty: copy the whole bundle again" }
    Write-Host "[OK] $checked files in $folder are whole"
}

function Join-Parts {
    Test-Sums $here
    if (Test-Path -LiteralPath $joining) { Remove-Item -LiteralPath $joining -Recurse -Force }
    New-Item -ItemType Directory -Path $joining | Out-Null
    $zip = Join-Path $joining "$bundle.zip"
    $pattern = '^[0-9a-f]+ [ *](' + [regex]::Escape($bundle) + '\.zip\.[0-9]{3})$'
    $joined = [IO.File]::Create($zip)
    try {
        foreach ($line in Get-Content -LiteralPath (Join-Path $here 'SHA256SUMS')) {
            if ($line -match $pattern) {
                $part = [IO.File]::OpenRead((Join-Path $here $Matches[1]))
                try { $part.CopyTo($joined) } finally { $part.Close() }
            }
        }
    } finally { $joined.Close() }
    Add-Type -AssemblyName System.IO.Compression.FileSystem
    [IO.Compression.ZipFile]::ExtractToDirectory($zip, $joining)
    # A virus scanner holds new files for a while, and their folder with them.
    for ($attempt = 1; ; $attempt++) {
        try { Move-Item -LiteralPath (Join-Path $joining $bundle) -Destination (Join-Path $here $bundle); break }
        catch { if ($attempt -ge 30) { throw }; Start-Sleep -Seconds 1 }
    }
    Remove-Item -LiteralPath $joining -Recurse -Force
    Write-Host "[OK] joined the parts into $(Join-Path $here $bundle)"
}

try {
    # 1. Ollama
    if (-not (Get-Command ollama -ErrorAction SilentlyContinue)) {
        throw 'ollama is not on PATH: install Ollama, then run this again'
    }
    Invoke-OllamaSilently list
    if ($LASTEXITCODE -ne 0) {
        $where = ''
        if ($env:OLLAMA_HOST) { $where = " at $env:OLLAMA_HOST" }
        throw "Ollama does not answer${where}: start it (ollama serve, or its app), then run this again"
    }
    Write-Host '[OK] Ollama answers'

    # 2. Parts
    $folder = $here
    if (Test-Path -LiteralPath (Join-Path $here "$bundle.zip.001")) {
        $folder = Join-Path $here $bundle
        # An older bundle may have been unpacked there: it must not be installed in the name of these parts.
        if (Test-Path -LiteralPath $folder) { throw "$folder is there already: delete it, or run install.ps1 in it" }
        Join-Parts
    }

    # 3. Files
    Test-Sums $folder
    if ($smoke) { Write-Host "[WARN] $smoke" }

    # 4. Models, under names for trial
    Set-Location -LiteralPath $folder
    foreach ($each in $models) {
        $model, $modelfile = $each -split ':', 2
        $trial += "$model-$suffix"
        Invoke-Ollama create "$model-$suffix" -f $modelfile
        if ($LASTEXITCODE -ne 0) { throw "ollama create $model did not work, its reason stands above: nothing was changed" }
    }

    # 5. One question
    $first = ($models[0] -split ':', 2)[0]
    $answer = (@(Invoke-Ollama run "$first-$suffix" $question) -join [Environment]::NewLine).Trim()
    if ($LASTEXITCODE -ne 0) { throw "$first gave no answer, the reason stands above: nothing was changed" }
    if (-not $answer) { throw "$first gave an empty answer: nothing was changed" }
    Write-Host "[OK] asked: $question"
    Write-Host "[OK] $first answers: $answer"

    # 6. Names
    foreach ($each in $models) {
        $model = ($each -split ':', 2)[0]
        Invoke-OllamaSilently cp "$model-$suffix" $model
        if ($LASTEXITCODE -ne 0) { throw "ollama cp $model-$suffix $model did not work" }
        Write-Host "[OK] $model is in Ollama"
    }

    # 7. HybridRAG3
    Write-Host ''
    Get-Content -LiteralPath HYBRIDRAG3.txt | Write-Host
} catch {
    Write-Host "[FAIL] $($_.Exception.Message)"
    $failed = $true
} finally {
    if (Test-Path -LiteralPath $joining) { Remove-Item -LiteralPath $joining -Recurse -Force -ErrorAction SilentlyContinue }
    foreach ($model in $trial) { Invoke-OllamaSilently rm $model }
    Set-Location -LiteralPath $here
}
if ($failed) { exit 1 }
exit 0
