// Names that the scripts of the pages share with asv's page, with libraries, and with data files.
declare const jQuery: any;
declare const uPlot: any;

interface Window {
  pulseSite(site: { project: string; grid: boolean; docs: boolean; simulation: boolean }): void;
  centralData(data: object): void;
  centralPiece(piece: { number: number }): void;
  centralLive(everyS: number): void;
  centralLog(log: { hashes: string; length: number; piece: number }): void;
  centralLogPiece(piece: { number: number; commits: unknown[] }): void;
  stageflowOffline(data: object): void;
}
